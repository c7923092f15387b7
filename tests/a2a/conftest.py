from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.types import ASGIApp, Receive, Scope, Send

from agentsys.blackboard.board import Board
from agentsys.protocols.a2a.server import a2a_routes
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel


@pytest.fixture
def board() -> Iterator[Board]:
    opened = Board.open(":memory:")
    yield opened
    opened.close()


@dataclass
class PeerProcess:
    """A foreign agent in another process, and what it received."""

    url: str
    log: Path

    def received(self, kind: str = "message") -> list[str]:
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line["text"] for line in lines if line["kind"] == kind]


@pytest.fixture
def start_peer(tmp_path: Path) -> Iterator[Callable[..., PeerProcess]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> PeerProcess:
        log = tmp_path / f"peer{len(started)}.jsonl"
        log.touch()
        script = Path(__file__).with_name("peer.py")
        command = [sys.executable, str(script), str(log), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return PeerProcess(f"http://127.0.0.1:{int(process.stdout.readline())}", log)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def peer(start_peer: Callable[..., PeerProcess]) -> PeerProcess:
    return start_peer()


class NamedCallers:
    """Takes the caller's name from a header, in place of the real authentication."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", [])).get(b"x-user")
        if name is not None:
            scope["user"] = SimpleUser(name.decode())
        await self._app(scope, receive, send)


@asynccontextmanager
async def serve_a2a(board: Board | Path, **arguments: Any) -> AsyncIterator[tuple[str, Runtime]]:
    """Serve a runtime over A2A; yields the base address and the runtime. A board given by path is closed at the end."""
    opened = board if isinstance(board, Board) else Board.open(board)
    runtime = Runtime(opened, ScriptedModel(lambda prompt: f"echo {prompt}"), **arguments)
    supervisor = RunSupervisor(runtime)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = NamedCallers(Starlette(routes=a2a_routes(runtime, supervisor, url=url)))
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield url, runtime
    finally:
        await supervisor.close()
        server.should_exit = True
        await task
        if isinstance(board, Path):
            opened.close()


@pytest.fixture
def serving() -> Callable[..., Any]:
    """Return the context manager that serves a runtime over A2A by real HTTP."""
    return serve_a2a
