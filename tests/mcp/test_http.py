"""The official Python client calls `/mcp` on a real socket, behind the edge that guards every face."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentsys.blackboard.board import Board
from agentsys.protocols.app import FaceOptions, create_app
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

TOKEN = "mcp-clients-only"
MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])
Mode = Literal["legacy", "auto"]


async def greet(context: Any, name: Any) -> Any:
    return f"Hello {name}"


@tool()
def wipe() -> str:
    raise AssertionError("a denied tool was called")


@asynccontextmanager
async def served(*, mcp: bool = True) -> AsyncIterator[str]:
    board = Board.open(":memory:")
    runtime = Runtime(board, ScriptedModel(str), workflows=[greet], tools=[wipe])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(RunSupervisor(runtime), FaceOptions(url=url, token=TOKEN, mcp=mcp))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield url
        finally:
            server.should_exit = True
            await serving
            await runtime.close()


@asynccontextmanager
async def connected(url: str, token: str | None, mode: Mode) -> AsyncIterator[Client]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@MODES
async def test_the_token_lets_a_client_run_a_workflow_and_a_tool_is_still_denied(mode: Mode) -> None:
    async with served() as url, connected(url, TOKEN, mode) as client:
        assert {t.name for t in (await client.list_tools()).tools} == {"run_greet", "wipe"}
        assert (await client.call_tool("run_greet", {"input": "Ada"})).structured_content == {"value": "Hello Ada"}
        denied = await client.call_tool("wipe", {})
        assert denied.is_error and "AGS-03" in denied.content[0].text  # type: ignore[union-attr]


@MODES
@pytest.mark.parametrize("token", [None, "wrong"])
async def test_no_client_connects_without_the_token(mode: Mode, token: str | None) -> None:
    async with served() as url:
        # The client reports what its task group met, whose type is not part of its interface.
        reached = False
        with pytest.raises(Exception):  # noqa: B017
            async with connected(url, token, mode) as client:
                await client.list_tools()
                reached = True
        assert not reached
        async with httpx2.AsyncClient() as http:
            assert (await http.post(f"{url}/mcp", json={})).status_code == 401


@pytest.mark.parametrize(
    ("header", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)]
)
async def test_pages_of_other_sites_are_refused(header: dict[str, str], status: int) -> None:
    async with served() as url, httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        assert (await http.post(f"{url}/mcp", json={}, headers=header)).status_code == status


async def test_the_face_is_shown_only_when_asked_for() -> None:
    async with served(mcp=False) as url, httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        assert (await http.post(f"{url}/mcp", json={})).status_code == 404
