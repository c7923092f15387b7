"""A recorded board beside the runtime's own, read by the same routes under a prefix of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile

from fastapi import APIRouter

from agentsys.blackboard.board import Board
from agentsys.protocols.http.board_routes import board_router
from agentsys.protocols.http.callers import SeenBoards
from agentsys.protocols.http.run_routes import run_reading_router
from agentsys.protocols.http.streams import Stopping
from agentsys.protocols.http.view_routes import view_router

RECORDED_PREFIX = "/recorded"


@contextmanager
def recorded_board(path: Path) -> Iterator[Board]:
    """Open a copy of the board at ``path`` for reading."""
    # A copy: reading writes files next to the board, and a package's folder may be read-only.
    with tempfile.TemporaryDirectory(prefix="agentsys-recorded-") as folder:
        copy = Path(folder) / path.name
        copyfile(path, copy)
        with Board.open_read_only(copy) as board:
            yield board


def recorded_router(board: Board, stopping: Stopping | None = None) -> APIRouter:
    """Return the reading routes over ``board`` under :data:`RECORDED_PREFIX`."""
    router = APIRouter(prefix=RECORDED_PREFIX)
    boards = SeenBoards(board)
    for part in (run_reading_router(boards), view_router(boards), board_router(boards, stopping)):
        router.include_router(part)
    return router
