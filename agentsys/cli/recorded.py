"""What the board says about a run that a command names: which one is meant, and where its workflow came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentsys.cli.run_source import LATEST
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.runs import RunRecord


def recorded_run(location: Path | str, run: str, *, kind: str | None = None) -> RunRecord:
    """Read the record of ``run`` from the board at ``location``.

    ``latest`` stands for the newest unfinished run; with ``kind``, of those whose origin has that key, ``lake`` or
    ``file``.
    Raises :class:`UnknownRun`, and :class:`ConfigurationError` where nothing is unfinished.
    """
    from agentsys.blackboard.board import Board
    from agentsys.runs import RunRecord, list_runs

    with Board.open_read_only(location) as board:
        if run != LATEST:
            return RunRecord.load(board, run)
        unfinished = [
            record
            for record in list_runs(board)
            if record.status == "running" and (kind is None or kind in origin_of(record))
        ]
    if not unfinished:
        raise ConfigurationError("The board has no unfinished run.", remedy="Leave --resume out to start a new one.")
    return unfinished[-1]


def origin_of(record: RunRecord) -> dict[str, Any]:
    """Return where the run's workflow came from; empty where the starter did not say."""
    return dict(record.origin) if isinstance(record.origin, dict) else {}
