"""The official Python client uses our server, in both protocol eras."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import OWNER, PUBLIC, Label
from agentsys.protocols.http.streams import Stopping
from agentsys.protocols.mcp.labels import FLOW
from agentsys.protocols.mcp.results import CLIENT
from agentsys.protocols.mcp.server import mcp_server
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import tool


async def greet(context: Any, name: Any) -> Any:
    return f"Hello {name}"


async def hang(context: Any, value: Any) -> Any:
    await asyncio.sleep(60)


@tool(effect=EffectClass.PURE)
def add(a: int, b: int) -> int:
    return a + b


@tool()
def wipe() -> str:
    raise AssertionError("a denied tool was called")


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_runs_workflows_and_tools_and_reads_only_what_it_may(mode: Literal["legacy", "auto"]) -> None:
    board = Board.open(":memory:")
    runtime = Runtime(board, ScriptedModel(str), workflows=[greet], tools=[add, wipe])
    supervisor = RunSupervisor(runtime)
    for key, label in (("open", Label.trusted(readers=PUBLIC)), ("closed", Label.trusted())):
        transaction = board.begin("owner")
        transaction.put("notes", key, key, type="note", label=label)
        board.commit(transaction)
    async with Client(mcp_server(runtime, supervisor), mode=mode) as client:
        assert {t.name for t in (await client.list_tools()).tools} == {"run_greet", "add", "wipe"}
        greeted = await client.call_tool("run_greet", {"input": "Ada"})
        assert greeted.structured_content == {"value": "Hello Ada"}
        assert (greeted.meta or {})[FLOW]["integrity"] == "untrusted"
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"value": 3}
        denied = await client.call_tool("wipe", {})
        assert denied.is_error and "AGS-03" in denied.content[0].text  # type: ignore[union-attr]
        uris = [str(resource.uri) for resource in (await client.list_resources()).resources]
        assert "board://notes/open" in uris and "board://notes/closed" not in uris
        assert (await client.read_resource("board://notes/open")).contents[0].text == '"open"'  # type: ignore[union-attr]
        with pytest.raises(MCPError):
            await client.read_resource("board://notes/closed")
    assert [CLIENT in run.input_label.influencers for run in runtime.runs()] == [True] * 3
    await supervisor.close()
    await runtime.close()


async def test_a_run_that_was_cancelled_has_no_answer() -> None:
    board = Board.open(":memory:")
    runtime = Runtime(board, ScriptedModel(str), workflows=[hang])
    supervisor = RunSupervisor(runtime)
    async with Client(mcp_server(runtime, supervisor)) as client:
        calling = asyncio.create_task(client.call_tool("run_hang", {}))
        while not any(supervisor.executing(record.run) for record in runtime.runs()):
            await asyncio.sleep(0.01)
        await supervisor.cancel(runtime.runs()[0].run)
        cancelled = await calling
    assert cancelled.is_error and "cancelled" in cancelled.content[0].text  # type: ignore[union-attr]
    await supervisor.close()
    await runtime.close()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("ending", [False, True])
async def test_a_call_that_its_client_takes_back_ends_its_run(mode: Literal["legacy", "auto"], ending: bool) -> None:
    board = Board.open(":memory:")
    runtime = Runtime(board, ScriptedModel(str), workflows=[hang])
    supervisor, stopping = RunSupervisor(runtime), Stopping()
    async with Client(mcp_server(runtime, supervisor, stopping), mode=mode) as client:
        calling = asyncio.create_task(client.call_tool("run_hang", {}))
        while not any(supervisor.executing(record.run) for record in runtime.runs()):
            await asyncio.sleep(0.01)
        if ending:
            # Then it is a restart that ends the call, and its run goes on after that.
            stopping.event.set()
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling
        if not ending:
            assert (await supervisor.wait(runtime.runs()[0].run)).status == "cancelled"
    await supervisor.close()
    (record,) = runtime.runs()
    assert record.status == ("running" if ending else "cancelled")
    assert board.history(topics.RUNS, record.run)[-1].writer == (OWNER if ending else CLIENT)
    await runtime.close()


async def test_a_client_that_leaves_during_a_call_ends_its_run() -> None:
    board = Board.open(":memory:")
    runtime = Runtime(board, ScriptedModel(str), workflows=[hang])
    supervisor = RunSupervisor(runtime)
    async with Client(mcp_server(runtime, supervisor), mode="legacy") as client:
        calling = asyncio.create_task(client.call_tool("run_hang", {}))
        while not any(supervisor.executing(record.run) for record in runtime.runs()):
            await asyncio.sleep(0.01)
    with pytest.raises(MCPError):
        await calling
    await supervisor.close()
    assert runtime.runs()[0].status == "cancelled"
    await runtime.close()
