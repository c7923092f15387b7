"""Erasing what runs made of an entry: of a run one of whose actors had read it, the whole record goes.

Steps and ends name what was read, and what lies between them names nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Key
from agentsys.blackboard.erasure import find
from agentsys.blackboard.predicates import Predicate

_BESIDE: Final = (topics.APPROVALS, topics.MEMO)
"""Topics in which a run has entries beside those of its own record."""


def find_derived(board: Board, where: Predicate, *, shaped_by: str | None = None) -> list[Key]:
    """Return what :func:`agentsys.blackboard.erasure.find` does, with all that was derived from it, also in runs."""
    return find(board, where, shaped_by=shaped_by, derived=True, belonging=lambda found: _records(board, found))


def _records(board: Board, found: Collection[Key]) -> set[Key]:
    """Return the whole records of the runs of which some is found."""
    records: set[Key] = set()
    for run in {run for address in found if (run := _run_of(*address))}:
        records |= {(topics.RUNS, run), *find(board, Predicate(topic_prefix=f"{topics.RESERVED_PREFIX}{run}/"))}
        for topic in _BESIDE:
            records |= {entry.address for entry in board.query(Predicate(topic=topic, run=run))}
    return records


def _run_of(topic: str, key: str) -> str:
    if topic == topics.RUNS:
        return key
    return topic.removeprefix(topics.RESERVED_PREFIX).partition("/")[0] if topics.is_of_run(topic) else ""
