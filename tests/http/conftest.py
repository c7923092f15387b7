"""A runtime behind its whole edge on a real socket."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.protocols.app import FaceOptions, create_app
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

TOKEN = "correct-horse-battery-staple"


async def echo(context, text):
    return (await context.generate(str(text))).value


async def fails(context, text):
    raise ValueError("no")


async def sleeps(context, text):
    import asyncio

    await asyncio.sleep(60)


@tool(effect=EffectClass.PURE)
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@pytest.fixture
def board() -> Iterator[Board]:
    with Board.open(":memory:") as opened:
        yield opened


@pytest.fixture
def runtime(board) -> Runtime:
    model = ScriptedModel(lambda prompt: f"said: {prompt}")
    return Runtime(board, model, tools=[double], workflows=[echo, fails, sleeps])


@contextmanager
def served(
    runtime: Runtime, *, token: str | None = TOKEN, recorded: Path | None = None, **options: Any
) -> Iterator[httpx.Client]:
    """Serve on a free port, in a thread; yield a client that presents the token."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(RunSupervisor(runtime), FaceOptions(url=url, token=token, recorded=recorded, **options))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[httpx.Client]]:
    return served


@pytest.fixture
def client(runtime) -> Iterator[httpx.Client]:
    with served(runtime) as opened:
        yield opened
