"""Foreign MCP servers over streamable HTTP, by real sockets: tokens, hosts, redirects, sizes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from mcp import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY, Label, Readers
from agentsys.protocols.app import FaceOptions, create_app
from agentsys.protocols.mcp import transports
from agentsys.protocols.mcp.remote import attach_servers
from agentsys.protocols.mcp.server import mcp_server
from agentsys.runtime import Runtime
from agentsys.sections import McpSettings
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

TOKEN = "peers-of-ours-only"
SHARED = Label.trusted("user:owner", Readers.of("user:owner", "mcp:other"))


@tool(effect=EffectClass.PURE, audience=NOBODY)
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def our_own_face() -> AsyncIterator[str]:
    runtime = Runtime(Board.open(":memory:"), ScriptedModel(str), tools=[add])
    options = FaceOptions(url="http://127.0.0.1", token=TOKEN, mcp=True)
    async with runtime, listening(create_app(RunSupervisor(runtime), options)) as url:
        yield f"{url}/mcp"


async def ask(url: str, **given: Any) -> Any:
    async def sum_up(context: Any, numbers: Any) -> Any:
        return (await context.call("other__add", a=numbers[0], b=numbers[1])).value

    settings = McpSettings.model_validate({"servers": {"other": {"url": url, **given}}})
    async with Runtime(Board.open(":memory:"), ScriptedModel(str)) as runtime:
        attach_servers(runtime, settings)
        return await runtime.run(sum_up, [1, 2], label=SHARED)


async def test_one_runtime_calls_the_tools_of_another() -> None:
    async with our_own_face() as url:
        result = await ask(url, token=TOKEN)
        assert result.value == {"value": 3}, result.failure
        # The other runtime's own label of the result comes along.
        assert "mcp:other/mcp:client" in result.label.influencers


async def test_our_face_offers_the_tools_of_other_servers_and_judges_their_calls() -> None:
    servers: Any = {"away": {"url": "http://127.0.0.1:9/mcp"}}
    async with our_own_face() as url, Runtime(Board.open(":memory:"), ScriptedModel(str)) as runtime:
        servers["other"] = {"url": url, "token": TOKEN, "consequential": False}
        attach_servers(runtime, McpSettings.model_validate({"servers": servers}))
        supervisor = RunSupervisor(runtime)
        async with Client(mcp_server(runtime, supervisor)) as client:
            assert "other__add" in {offer.name for offer in (await client.list_tools()).tools}
            # What a client says is not for the other server to learn.
            denied = await client.call_tool("other__add", {"a": 1, "b": 2})
            assert denied.is_error and "audience" in denied.content[0].text  # type: ignore[union-attr]
        await supervisor.close()


async def test_a_wrong_token_is_told_and_not_quoted() -> None:
    async with our_own_face() as url:
        result = await ask(url, token="wrong-but-long-enough")
        assert "AGS-0742" in result.failure.message and "wrong-but" not in result.failure.message


async def test_a_redirect_to_another_host_is_not_followed() -> None:
    reached: list[str] = []

    async def elsewhere(request: Request) -> Response:
        reached.append(request.url.path)
        return JSONResponse({})

    async def redirect(request: Request) -> Response:
        return RedirectResponse(f"{other}/mcp", 307)

    async with (
        listening(Starlette(routes=[Route("/mcp", elsewhere, methods=["POST", "GET"])])) as other,
        listening(Starlette(routes=[Route("/mcp", redirect, methods=["POST", "GET"])])) as url,
    ):
        result = await ask(f"{url}/mcp", token=TOKEN)
        assert "AGS-0742" in result.failure.message
        assert reached == []


async def test_a_link_local_address_is_not_connected_to() -> None:
    result = await ask("http://169.254.169.254/mcp", token=TOKEN)
    assert "AGS-0742" in result.failure.message and "169.254.169.254" in result.failure.message


@pytest.mark.parametrize(("size", "said"), [(1, "unknown-tool"), (1 << 20, "AGS-0742")])
async def test_an_endless_answer_is_left(monkeypatch: pytest.MonkeyPatch, size: int, said: str) -> None:
    monkeypatch.setattr(transports, "MAX_RESPONSE_BYTES", 1 << 16)

    async def answer(request: Request) -> Response:
        asked = await request.json()
        if asked.get("method") == "server/discover":
            return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}})
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "big", "version": "1"}}
        result = {"tools": []} if asked["method"] == "tools/list" else hello | {"instructions": "x" * size}
        return JSONResponse({"jsonrpc": "2.0", "id": asked.get("id", 0), "result": result})

    async with listening(Starlette(routes=[Route("/mcp", answer, methods=["POST"])])) as url:
        result = await ask(f"{url}/mcp", timeout=10.0)
        assert said in result.failure.message, json.dumps(result.failure.to_json())
