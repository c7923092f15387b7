"""All faces of one runtime on one ASGI application, behind one edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from agentsys.protocols.bodies import bounded
from agentsys.protocols.edge import EdgeMiddleware
from agentsys.protocols.http.app import PREFIX, runtime_api
from agentsys.protocols.http.recorded import recorded_board
from agentsys.protocols.http.streams import Stopping
from agentsys.protocols.principals import principals
from agentsys.sections import PrincipalSettings
from agentsys.serving.client import ServingClient
from agentsys.serving.server.health_routes import OPEN_PATHS
from agentsys.serving.server.operation import Operation
from agentsys.supervisor import RunSupervisor


@dataclass(frozen=True, slots=True)
class FaceOptions:
    """Which faces are shown, and who may call them (see :class:`EdgeMiddleware`).

    ``url`` is where callers reach the server; the A2A agent card repeats it. ``token`` is the owner's, ``principals``
    are the others. ``recorded`` is the file of a board to show beside the runtime's own.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    principals: Mapping[str, PrincipalSettings] = field(default_factory=dict, repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    openai: bool = True
    a2a: bool = False
    mcp: bool = False
    recorded: Path | None = None


def create_app(
    supervisor: RunSupervisor,
    options: FaceOptions,
    stopping: Stopping | None = None,
    operation: Operation | None = None,
) -> ASGIApp:
    """Return the application, whose end interrupts the supervisor's runs and leaves the runtime open.

    ``stopping`` ends the API's streams, which a server waits for before that end; ``operation`` is that of the models.
    """
    operation = Operation() if operation is None else operation

    callers = principals(supervisor.runtime.policy.owner, options.token, options.principals)
    mcp = _mcp_app(supervisor, stopping) if options.mcp else None
    opened = ExitStack()
    recorded = opened.enter_context(recorded_board(options.recorded)) if options.recorded else None

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(opened.close)
            if mcp is not None:
                await stack.enter_async_context(mcp.router.lifespan_context(mcp))
            yield
            await supervisor.close()

    api = runtime_api(supervisor, stopping, recorded, operation.metrics.registry)
    routes: list[BaseRoute] = [Mount(PREFIX, api)]
    model = supervisor.runtime.model
    if options.openai and isinstance(model, ServingClient):
        from agentsys.serving.server.app import serving_app

        routes.append(Mount("/", serving_app(model, operation)))
    if options.a2a:
        from agentsys.protocols.a2a.server import a2a_routes

        url, token = options.url, bool(callers)
        routes[:0] = a2a_routes(supervisor.runtime, supervisor, url=url, token=token)
    if mcp is not None:
        routes[:0] = mcp.routes
    app = bounded(Starlette(routes=routes, lifespan=lifespan))
    return EdgeMiddleware(app, principals=callers, hosts=options.hosts, origins=options.origins, open_paths=OPEN_PATHS)


def _mcp_app(supervisor: RunSupervisor, stopping: Stopping | None) -> Starlette:
    from agentsys.protocols.mcp.server import mcp_app

    return mcp_app(supervisor.runtime, supervisor, stopping)
