"""Where a command finds runs: on a board, or on a server, both asked alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from agentsys.cli.board_option import board_to_read, board_to_write
from agentsys.cli.server_option import connected, server_beside
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.blackboard.board import Board
    from agentsys.protocols.http.client import RuntimeClient
    from agentsys.protocols.http.schemas import RunDocument

LATEST: Final = "latest"


class BoardRuns:
    """The runs of a board, as its owner may see them; asked like a :class:`RuntimeClient`."""

    def __init__(self, board: Board, location: str | None = None) -> None:
        """``location`` is what :func:`board_to_write` opens where a run is cancelled."""
        self._board, self._location = board, location

    def runs(self, *, status: str | None = None, limit: int = 50) -> list[RunDocument]:
        """Return runs, the newest first."""
        from agentsys.blackboard.labels import OWNER
        from agentsys.protocols.http.schemas import RunDocument
        from agentsys.runs import list_runs

        found = [record for record in reversed(list_runs(self._board)) if status in (None, record.status)]
        return [RunDocument.of(record, OWNER) for record in found[:limit]]

    def run(self, run: str) -> RunDocument:
        """Return one run. Raises :class:`~agentsys.runs.UnknownRun`."""
        from agentsys.blackboard.labels import OWNER
        from agentsys.protocols.http.schemas import RunDocument
        from agentsys.runs import RunRecord

        return RunDocument.of(RunRecord.load(self._board, run), OWNER)

    def cancel(self, run: str) -> None:
        """End a run for good, whoever executes it. Raises :class:`~agentsys.runs.UnknownRun`."""
        from agentsys.blackboard.labels import OWNER
        from agentsys.execution import record_cancelled

        self.run(run)
        with board_to_write(self._location) as board:
            asyncio.run(record_cancelled(board, run, OWNER))


@contextmanager
def runs_at(board: str | None, url: str | None, token: str | None) -> Iterator[BoardRuns | RuntimeClient]:
    """Open the server at ``url``, and without one the board that ``board``, or else the settings, name."""
    if (url := server_beside(board, url)) is not None:
        with connected(url, token) as client:
            yield client
        return
    with board_to_read(board) as opened:
        yield BoardRuns(opened, board)


@contextmanager
def server_or_board(
    board: str | None, url: str | None, token: str | None, told: Callable[[str], None] = lambda server: None
) -> Iterator[BoardRuns | RuntimeClient]:
    """Open what the arguments name; without any, the settings' server, or their board where that does not answer, of
    which ``told`` hears."""
    if board is None and url is None:
        with connected(None, token) as client:
            if _answers(client):
                yield client
                return
            told(client.url)
    with runs_at(board, url, token) as place:
        yield place


def named(run: str, place: BoardRuns | RuntimeClient) -> str:
    """Return the identifier of the run that is meant: with ``latest``, of the newest one.

    Raises :class:`ConfigurationError` where there is none.
    """
    if run != LATEST:
        return run
    for newest in place.runs(limit=1):
        return newest.run
    raise ConfigurationError("There is no run yet.", remedy="Start one with `agentsys run` or `agentsys ask`.")


def _answers(client: RuntimeClient) -> bool:
    from agentsys.protocols.http.client import ServerUnreachable

    try:
        client.health()
    except ServerUnreachable:
        return False
    return True
