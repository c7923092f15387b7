"""The runtime's own HTTP API as one FastAPI application, described by OpenAPI at ``/openapi.json`` below its mount."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client.registry import Collector

from agentsys.blackboard.board import Board
from agentsys.protocols.http.approval_routes import approval_router
from agentsys.protocols.http.board_routes import board_router
from agentsys.protocols.http.callers import SeenBoards
from agentsys.protocols.http.catalogue_routes import catalogue_router
from agentsys.protocols.http.errors import install_error_handlers
from agentsys.protocols.http.recorded import recorded_router
from agentsys.protocols.http.run_routes import run_control_router, run_reading_router
from agentsys.protocols.http.streams import Stopping
from agentsys.protocols.http.view_routes import view_router
from agentsys.supervisor import RunSupervisor

PREFIX = "/api/v1"


def runtime_api(
    supervisor: RunSupervisor,
    stopping: Stopping | None = None,
    recorded: Board | None = None,
    measured: Collector | None = None,
) -> FastAPI:
    """Return the API of the supervisor's runtime, to be mounted at :data:`PREFIX`; ``stopping`` ends its streams.

    ``recorded`` is another board to show beside the runtime's own, ``measured`` what is told beside its metrics.
    """
    runtime = supervisor.runtime
    boards = SeenBoards(runtime.board)
    # Its pages for people fetch scripts from another site, so there are none.
    api = FastAPI(title="agentsys", version=version("agentsys-runtime"), docs_url=None, redoc_url=None)
    install_error_handlers(api)
    for router in (
        catalogue_router(runtime, measured),
        approval_router(runtime, boards),
        run_control_router(supervisor, boards, stopping),
        run_reading_router(boards),
        view_router(boards),
        board_router(boards, stopping),
        *([] if recorded is None else [recorded_router(recorded, stopping)]),
    ):
        api.include_router(router)
    return api
