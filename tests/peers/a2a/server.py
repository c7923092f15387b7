"""Our A2A server in a process of its own: ``python server.py TOKEN`` prints its port."""

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER
from agentsys.protocols.a2a.server import a2a_routes
from agentsys.protocols.edge import EdgeMiddleware
from agentsys.protocols.principals import principals
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel


async def greet(context: Any, name: str) -> Any:
    """Greets somebody by name."""
    return (await context.generate(f"hello {name}")).value


async def hang(context: Any, value: Any) -> None:
    await asyncio.sleep(600)


async def main(token: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(lambda prompt: f"echo {prompt}"), workflows=[greet, hang])
        routes = a2a_routes(runtime, RunSupervisor(runtime), url=f"http://127.0.0.1:{port}", token=True)
        app = EdgeMiddleware(Starlette(routes=routes), principals=principals(OWNER, token, {}))
        print(port, flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off")).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
