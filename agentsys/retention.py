"""Retention: how much of a board's past is kept, beyond what runs that have not ended still need."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep, Pin, Plan, compact, plan
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import ConfigurationError
from agentsys.runs import RunRecord, UnknownRun

DEFAULT_KEEP: Final = "30d"
EVERY_SECONDS: Final = 3600.0
"""How often a server compacts, if its settings say what to keep."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN: Final = re.compile(r"(\d+)([smhd]?)", re.ASCII)


def parse_keep(text: str) -> Keep:
    """Return what ``30d``, ``12h``, ``90m``, ``45s`` or a number of commits keeps.

    Raises :class:`ConfigurationError`.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"{text!r} does not say how much of the board's past to keep.",
            remedy="Pass a time, as 30d, 12h or 90m, or a number of commits.",
        )
    number, unit = int(match[1]), match[2]
    return Keep(seconds=float(number * _UNITS[unit])) if unit else Keep(commits=number)


def plan_compaction(board: Board, keep: Keep) -> Plan:
    """Return what :func:`compact_board` would do now."""
    return plan(board, keep, run_pins(board))


def compact_board(board: Board, keep: Keep, progress: Callable[[int], None] = lambda rows: None) -> Plan:
    """Drop the board's past but for ``keep`` and what runs that have not ended need to go on."""
    return compact(board, keep, run_pins(board), progress)


def run_pins(board: Board) -> list[Pin]:
    """Return what each run that has not ended needs: its own commits, and the state in which it began."""
    entries = board.query(Predicate(topic=topics.RUNS))
    pins = [_pin(board, entry.key) for entry in entries if RunRecord.of(entry).status == "running"]
    return [pin for pin in pins if pin is not None]


def _pin(board: Board, run: str) -> Pin | None:
    try:
        record = RunRecord.load(board, run)
    except UnknownRun:
        # It was erased since.
        return None
    began = max(0, record.first_seq - 1)
    return Pin(f"run {record.run}, which has not ended", min(began, record.snapshot or began))
