"""Tools of foreign MCP servers in other processes: what they learn, what they are believed, what they may change."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.server.lowlevel import Server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool
from referencing.exceptions import Unresolvable

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectState
from agentsys.blackboard.labels import EXTERNAL, NOBODY, Label, Readers
from agentsys.errors import ConfigurationError
from agentsys.protocols.mcp import connection
from agentsys.protocols.mcp.errors import ServerUnavailable
from agentsys.protocols.mcp.pins import Offer, Pins
from agentsys.protocols.mcp.remote import RemoteServer, attach_servers
from agentsys.protocols.mcp.schema import arguments_model
from agentsys.runtime import Runtime
from agentsys.sections import ForeignServerSettings, McpSettings
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

SCRIPT = Path(__file__).with_name("foreign_server.py")
SHARED = Label.trusted("user:owner", Readers.of("user:owner", "mcp:echoes"))
LOCAL: dict[str, Any] = {"audience": ["user:owner"]}


class Servers:
    """Starts runtimes with the foreign server in its modes, and reads what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.log, self.board = folder / "calls.jsonl", folder / "board.db"
        self.log.touch()

    def settings(self, mode: str = "", **given: Any) -> McpSettings:
        command = [sys.executable, str(SCRIPT), str(self.log), "--mode", mode]
        return McpSettings.model_validate({"servers": {"echoes": {"command": command, **given}}})

    @asynccontextmanager
    async def runtime(self, mode: str = "", tools: Any = (), **given: Any) -> AsyncIterator[Runtime]:
        runtime = Runtime(Board.open(self.board), ScriptedModel(str), tools=tools)
        attach_servers(runtime, self.settings(mode, **given))
        async with runtime:
            yield runtime

    def calls(self) -> list[Any]:
        return [json.loads(line)["arguments"] for line in self.log.read_text().splitlines()]


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path)


async def echo(context: Any, text: Any) -> Any:
    return (await context.call("echoes__echo", text=text)).value


async def test_a_call_passes_the_gateway_and_is_journaled(servers: Servers) -> None:
    async with servers.runtime() as runtime:
        result = await runtime.run(echo, "hello", label=SHARED)
        assert result.value == "hello", result.failure
        assert servers.calls() == [{"text": "hello"}]
        assert result.label.influencers == {"user:owner", "mcp:echoes", EXTERNAL}
        assert result.label.readers == Readers.of("user:owner", "mcp:echoes")
        (effect,) = runtime.board.effects(run=result.run)
        assert effect.state is EffectState.SUCCEEDED and effect.intent.effect_class is EffectClass.IRREVERSIBLE
        assert (await runtime.replay(result.run, echo)).identical
        assert len(servers.calls()) == 1


async def test_a_replay_needs_no_server(servers: Servers) -> None:
    async with servers.runtime() as runtime:
        run = (await runtime.run(echo, "hello", label=SHARED)).run
    broken = {"command": ["/nowhere/at/all"]}
    async with Runtime(Board.open_read_only(servers.board), ScriptedModel(str)) as runtime:
        attach_servers(runtime, McpSettings.model_validate({"servers": {"echoes": broken}}))
        assert (await runtime.replay(run, echo)).identical


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        (Label.trusted(), "audience"),
        (Label(frozenset({"mallory"}), Readers.of("user:owner", "mcp:echoes")), "integrity"),
    ],
)
async def test_a_denied_call_never_reaches_the_server(servers: Servers, label: Label, rule: str) -> None:
    async with servers.runtime() as runtime:
        result = await runtime.run(echo, "secret", label=label)
        assert result.failure is not None and result.failure.code == "AGS-0310" and rule in result.failure.message
        assert servers.calls() == []


async def test_arguments_that_the_schema_refuses_never_reach_the_server(servers: Servers) -> None:
    async with servers.runtime() as runtime:
        result = await runtime.run(echo, 7, label=SHARED)
        assert result.failure is not None and "bad-arguments" in result.failure.message
        assert servers.calls() == []


async def test_an_answer_cannot_lead_to_a_consequential_call(servers: Servers) -> None:
    async def sail(context: Any, text: Any) -> Any:
        return await context.call("sail", when=await context.call("echoes__echo", text=text))

    sailed: list[str] = []

    @tool(name="sail", effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=Label.trusted())
    def sail_tool(when: str) -> None:
        sailed.append(when)

    async with servers.runtime(tools=[sail_tool]) as runtime:
        result = await runtime.run(sail, "now", label=SHARED)
        assert result.failure is not None and result.failure.code == "AGS-0310"
    # The check would see a sailing: with a server that the operator trusts, there is one.
    async with servers.runtime(tools=[sail_tool], trusted=True) as runtime:
        assert (await runtime.run(sail, "now", label=SHARED)).status == "done"
        assert sailed == ["now"]


async def test_the_servers_own_word_never_raises_trust(servers: Servers) -> None:
    async with servers.runtime("lies") as runtime:
        declared = await runtime.tools.find("echoes__echo")
        assert declared is not None
        # Its annotations say: read only, idempotent, a closed world.
        assert declared.effect_class is EffectClass.IRREVERSIBLE and declared.consequential
        assert (await runtime.run(echo, "hi", label=SHARED)).label.influencers >= {"mcp:echoes", EXTERNAL}


async def test_the_servers_own_word_lowers_trust(servers: Servers) -> None:
    async with servers.runtime("lies", trusted=True) as runtime:
        assert (await runtime.run(echo, "hi", label=SHARED)).label.influencers == {"user:owner"}
    async with servers.runtime("admits", trusted=True) as runtime:
        assert "mcp:echoes" in (await runtime.run(echo, "hi", label=SHARED)).label.influencers


async def test_a_local_server_may_learn_what_is_the_owners(servers: Servers) -> None:
    async with servers.runtime(**LOCAL) as runtime:
        assert (await runtime.run(echo, "private")).value == "private"


async def test_the_operator_decides_about_single_tools(servers: Servers) -> None:
    said = {"tool": {"echo": {"effect": "idempotent", "consequential": False}}}
    async with servers.runtime(**said) as runtime:
        declared = await runtime.tools.find("echoes__echo")
        assert declared is not None and not declared.consequential
        assert declared.effect_class is EffectClass.IDEMPOTENT


async def test_only_allowed_tools_can_be_called(servers: Servers) -> None:
    settings = servers.settings(tools=["other"])
    async with Runtime(Board.open(servers.board), ScriptedModel(str)) as runtime:
        attach_servers(runtime, settings)
        result = await runtime.run(echo, "hi", label=SHARED)
        assert result.failure is not None and "unknown-tool" in result.failure.message


async def test_a_changed_description_is_refused_until_it_is_accepted(servers: Servers) -> None:
    async with servers.runtime() as runtime:
        assert (await runtime.run(echo, "one", label=SHARED)).value == "one"
    async with servers.runtime("changed") as runtime:
        result = await runtime.run(echo, "two", label=SHARED)
        assert result.failure is not None and "AGS-0746" in result.failure.message
        assert "is changed" in result.failure.message
        assert servers.calls() == [{"text": "one"}]
        (effect,) = runtime.board.effects(run=result.run)
        assert effect.state is EffectState.FAILED
        server = RemoteServer("echoes", servers.settings("changed").servers["echoes"], runtime.board)
        await server.accept(await server.offer(), "echo")
        await server.close()
        assert (await runtime.run(echo, "three", label=SHARED)).value == "three"
        assert [entry.writer for entry in runtime.board.history(topics.TOOL_PINS, "echoes")] == [
            "runtime",
            "user:owner",
        ]


async def test_a_tool_that_appears_later_is_refused(servers: Servers) -> None:
    async def extra(context: Any, text: Any) -> Any:
        return (await context.call("echoes__extra", text=text)).value

    async with servers.runtime() as runtime:
        await runtime.run(echo, "one", label=SHARED)
    async with servers.runtime("new") as runtime:
        result = await runtime.run(extra, "two", label=SHARED)
        assert (
            result.failure is not None and "AGS-0746" in result.failure.message and "is new" in result.failure.message
        )
        assert (await runtime.run(echo, "three", label=SHARED)).value == "three"


async def test_names_that_collide_or_are_none_are_left_out(servers: Servers) -> None:
    async with servers.runtime("names") as runtime:
        await runtime.run(echo, "one", label=SHARED)
        assert runtime.tools.names() == ["echoes__echo"]
        server = RemoteServer("echoes", servers.settings("names").servers["echoes"], runtime.board)
        assert set((await server.offer()).faults) == {"twice", "no name/../at all", "bad"}
        await server.close()


async def test_a_server_that_is_away_keeps_nobody_from_starting(servers: Servers) -> None:
    settings = McpSettings.model_validate({"servers": {"echoes": {"command": ["/nowhere/at/all"]}}})
    async with Runtime(Board.open(servers.board), ScriptedModel(str)) as runtime:
        attach_servers(runtime, settings)
        result = await runtime.run(echo, "hi", label=SHARED)
        assert result.failure is not None and "AGS-0742" in result.failure.message
        assert "nowhere" in result.failure.message
        assert Pins.load(runtime.board, "echoes") is None


@pytest.mark.parametrize("mode", ["hang", "die", "big", "malformed"])
async def test_what_may_have_happened_is_in_doubt(servers: Servers, mode: str) -> None:
    async with servers.runtime(mode, timeout=8.0 if mode == "hang" else 60.0) as runtime:
        result = await runtime.run(echo, "hi", label=SHARED)
        assert result.failure is not None and result.failure.code == "AGS-0631", result.failure
        (effect,) = runtime.board.effects(run=result.run)
        assert effect.state is EffectState.IN_DOUBT
        assert len(servers.calls()) == 1


async def test_a_repeatable_call_is_made_again_when_the_server_dies(servers: Servers) -> None:
    async with servers.runtime("die", effect="idempotent") as runtime:
        result = await runtime.run(echo, "hi", label=SHARED)
        assert result.failure is not None and "AGS-0743" in result.failure.message
        assert len(servers.calls()) == 2


async def test_the_next_call_starts_a_dead_server_again(servers: Servers) -> None:
    async with servers.runtime("die") as runtime:
        await runtime.run(echo, "one", label=SHARED)
        await runtime.run(echo, "two", label=SHARED)
        assert servers.calls() == [{"text": "one"}, {"text": "two"}]


async def test_a_server_that_is_busy_with_a_call_is_left_to_it(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def on_list(context: Any, params: Any) -> ListToolsResult:
        if begun.is_set():
            await gate.wait()
        return ListToolsResult(tools=[Tool(name="echo", input_schema={"type": "object"})])

    async def on_call(context: Any, params: Any) -> CallToolResult:
        begun.set()
        await gate.wait()
        return CallToolResult(content=[TextContent(text="hi")])

    program: Server[Any] = Server("echoes", on_list_tools=on_list, on_call_tool=on_call)
    settings = servers.settings(timeout=2.5).servers["echoes"]
    with Board.open(servers.board) as board:
        server = RemoteServer("echoes", settings, board, server=lambda: program)
        await server.discover()
        calling = asyncio.create_task(server.known()["echoes__echo"].function())
        await begun.wait()
        # What was listed is too old to be relied on.
        monkeypatch.setattr(connection, "FRESH_SECONDS", -1.0)
        with pytest.raises(ServerUnavailable):
            await server.offer()
        gate.set()
        assert (await calling).value == "hi"
        await server.close()


async def test_an_error_of_the_tool_is_its_failure(servers: Servers) -> None:
    async with servers.runtime("error") as runtime:
        result = await runtime.run(echo, "hi", label=SHARED)
        assert result.failure is not None and result.failure.code == "AGS-0630"
        assert "the sea is closed" in result.failure.message
        assert "mcp:echoes" in result.label.influencers


async def test_what_is_no_text_comes_as_json(servers: Servers) -> None:
    async with servers.runtime("image") as runtime:
        result = await runtime.run(echo, "hi", label=SHARED)
        assert result.value == ["hi", {"type": "image", "data": "AAAA", "mimeType": "image/png"}]


async def test_noise_between_the_messages_is_survived(servers: Servers) -> None:
    async with servers.runtime("garbage") as runtime:
        assert (await runtime.run(echo, "hi", label=SHARED)).value == "hi"


async def test_agents_neither_read_nor_write_the_pins(servers: Servers) -> None:
    async def pry(context: Any, text: Any) -> Any:
        return await context.read(topics.TOOL_PINS, "echoes")

    async with servers.runtime() as runtime:
        await runtime.run(echo, "hi", label=SHARED)
        result = await runtime.run(pry, None)
        assert result.failure is not None and result.failure.code == "AGS-0310"


def test_a_server_has_one_transport_and_a_plain_name() -> None:
    with pytest.raises(ValueError, match="either command or url"):
        ForeignServerSettings()
    with pytest.raises(ValueError, match="pattern"):
        McpSettings.model_validate({"servers": {"a__b": {"url": "http://127.0.0.1/mcp"}}})


async def test_prefixes_that_could_be_mistaken_are_refused(servers: Servers) -> None:
    @tool(name="echoes__own", effect=EffectClass.PURE)
    def own() -> None: ...

    async with Runtime(Board.open(servers.board), ScriptedModel(str), tools=[own]) as runtime:
        with pytest.raises(ConfigurationError, match="echoes__own"):
            attach_servers(runtime, servers.settings())


def test_every_kind_of_change_is_seen() -> None:
    def definition(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "inputSchema": {"type": "object"}} | more

    pins = Pins("s", {"same": definition("same"), "gone": definition("gone"), "meta": definition("meta")})
    offered = {name: definition(name) for name in ("same", "new")} | {"meta": definition("meta", _meta={"a": 1})}
    assert pins.changes(Offer("s", offered)) == {"new": "new", "gone": "gone", "meta": "changed"}
    assert pins.changes(Offer("another", offered))["same"] == "changed"
    assert pins.accepting(Offer("s", offered), "meta").changes(Offer("s", offered)) == {"new": "new", "gone": "gone"}


def test_references_of_a_schema_are_not_fetched(tmp_path: Path) -> None:
    elsewhere = tmp_path / "schema.json"
    elsewhere.write_text("{}")
    model = arguments_model("t", {"type": "object", "properties": {"a": {"$ref": elsewhere.as_uri()}}})
    with pytest.raises(Unresolvable):
        model.model_validate({"a": 1})


def test_hostile_regular_expressions_are_not_run() -> None:
    model = arguments_model("t", {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    assert dict(model.model_validate({"a": "a" * 64 + "!"})) == {"a": "a" * 64 + "!"}
