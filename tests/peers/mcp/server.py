"""Our MCP face behind its edge in a process of its own: ``python server.py TOKEN`` prints its port."""

import asyncio
import socket
import sys
from typing import Any

import uvicorn

from agentsys.blackboard.board import Board
from agentsys.protocols.app import FaceOptions, create_app
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import tool


async def greet(context: Any, name: Any) -> Any:
    return f"Hello {name}"


@tool()
def wipe() -> str:
    raise AssertionError("a denied tool was called")


async def main(token: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[greet], tools=[wipe])
        app = create_app(RunSupervisor(runtime), FaceOptions(url=f"http://127.0.0.1:{port}", token=token, mcp=True))
        print(port, flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
