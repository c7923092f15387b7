"""Prompts, documents, completion, content and progress, as an MCP client sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY, PUBLIC, Label
from agentsys.protocols.mcp.published import DOCUMENTS, PROMPTS, TEMPLATE
from agentsys.protocols.mcp.results import content_blocks
from agentsys.protocols.mcp.server import mcp_server
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

PUBLISHED = Label.trusted(readers=PUBLIC)
GREETING: Any = {
    "description": "Greets.",
    "arguments": [{"name": "who", "required": True, "values": ["Ada", "Alan", "Grace"]}, {"name": "how"}],
    "messages": [{"role": "user", "content": "Greet {who} {how} and keep {this}."}],
}


async def greet(context: Any, name: Any) -> Any:
    """Greets somebody by name."""
    return f"Hello {name}"


@tool(effect=EffectClass.PURE, audience=NOBODY)
def draw() -> Any:
    return ["a pixel:", {"type": "image", "data": "AAAA", "mimeType": "image/png"}]


@tool(name="not a name for MCP", effect=EffectClass.PURE)
def unnamed() -> None: ...


# No fixture: the client must be left in the task that entered it.
@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    board = Board.open(":memory:")
    runtime = Runtime(board, ScriptedModel(str), workflows=[greet], tools=[draw, unnamed])
    transaction = board.begin("user:owner")
    transaction.put(PROMPTS, "greeting", GREETING, type="prompt", label=PUBLISHED)
    transaction.put(PROMPTS, "private", GREETING, type="prompt", label=Label.trusted())
    transaction.put(PROMPTS, "planted", GREETING, type="prompt", label=Label(frozenset({"mallory"}), PUBLIC))
    transaction.put(PROMPTS, "broken", {"messages": [{"role": "user"}]}, type="prompt", label=PUBLISHED)
    document = {"uri": "doc://a", "mimeType": "text/plain", "text": "what is known"}
    transaction.put(DOCUMENTS, "a", document, type="document", label=PUBLISHED)
    transaction.put("notes", "one", 1, type="note", label=PUBLISHED)
    transaction.put("notes", "secret", 2, type="note", label=Label.trusted())
    board.commit(transaction)
    supervisor = RunSupervisor(runtime)
    async with Client(mcp_server(runtime, supervisor)) as client:
        yield client
    await supervisor.close()
    await runtime.close()


async def test_only_public_trusted_sound_prompts_are_offered() -> None:
    async with connected() as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["greeting"]
        for name in ("private", "planted", "broken"):
            with pytest.raises(MCPError):
                await client.get_prompt(name, {"who": "Ada"})


async def test_arguments_are_filled_in_once() -> None:
    async with connected() as client:
        filled = await client.get_prompt("greeting", {"who": "{how}", "how": "well"})
        assert filled.messages[0].content.text == "Greet {how} well and keep {this}."  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="who"):
            await client.get_prompt("greeting", {})


async def test_arguments_are_completed() -> None:
    async with connected() as client:
        prompt = PromptReference(name="greeting")
        completed = await client.complete(ref=prompt, argument={"name": "who", "value": "A"})
        assert completed.completion.values == ["Ada", "Alan"]
        template = ResourceTemplateReference(uri=TEMPLATE)
        keys = await client.complete(
            ref=template, argument={"name": "key", "value": ""}, context_arguments={"topic": "notes"}
        )
        assert keys.completion.values == ["one"]


async def test_a_document_has_its_own_address() -> None:
    async with connected() as client:
        listed = {str(resource.uri): resource.mime_type for resource in (await client.list_resources()).resources}
        assert (
            listed["doc://a"] == "text/plain" and "board://notes/one" in listed and "board://notes/secret" not in listed
        )
        assert (await client.read_resource("doc://a")).contents[0].text == "what is known"  # type: ignore[union-attr]
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == TEMPLATE


async def test_tools_are_offered_with_their_names_and_true_hints() -> None:
    async with connected() as client:
        offered = {offer.name: offer for offer in (await client.list_tools()).tools}
        assert set(offered) == {"draw", "run_greet"}
        hints = offered["draw"].annotations
        assert hints is not None and hints.read_only_hint and not hints.destructive_hint and not hints.open_world_hint
        assert offered["run_greet"].description == "Greets somebody by name."


async def test_content_and_progress_reach_the_client() -> None:
    async with connected() as client:
        told: list[tuple[float, str | None]] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, message))

        drawn = await client.call_tool("draw", {}, progress_callback=hear)
        assert [part.type for part in drawn.content] == ["text", "image"] and drawn.structured_content is None
        assert told[0] == (1, "RunStarted") and told[-1][1] == "RunFinished"
        assert [number for number, _ in told] == sorted(number for number, _ in told)


@pytest.mark.parametrize(
    "value", ["text", ["a", "b"], {"type": "image"}, {"a": 1}, [{"type": "text", "text": "a"}, 3], None, []]
)
def test_what_is_no_content_stays_a_value(value: Any) -> None:
    assert content_blocks(value) is None
