"""A board's runs, read once and then kept up to date from its log: people look at them every second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.runs import RunRecord

_RUNS: Final = Predicate(topic=topics.RUNS)


class RunIndex:
    """The runs of one board. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._head = 0
        self._records: dict[str, RunRecord] = {}
        self._ordered: tuple[RunRecord, ...] = ()
        self._tokens: dict[str, int | None] = {}

    def records(self, board: Board) -> tuple[RunRecord, ...]:
        """Return all runs, the oldest first."""
        with self._lock:
            head = board.head
            if head > self._head:
                self._advance(board, head)
            return self._ordered

    def tokens(self, record: RunRecord, count: Callable[[], int | None]) -> int | None:
        """Return what ``count`` returns, which is called once for a run that has ended."""
        if record.status == "running":
            return count()
        with self._lock:
            if record.run in self._tokens:
                return self._tokens[record.run]
        counted = count()
        with self._lock:
            self._tokens[record.run] = counted
        return counted

    def _advance(self, board: Board, head: int) -> None:
        if not self._records:
            changed = board.query(_RUNS, at=head)
        else:
            commits = board.matching(_RUNS, self._head, None)
            changed = [entry for commit in commits for entry in commit.writes if entry.topic == topics.RUNS]
        self._head = head
        if changed:
            for entry in changed:
                record = RunRecord.left_in(entry)
                if record is None:
                    self._records.pop(entry.key, None)
                else:
                    self._records[entry.key] = record
            self._ordered = tuple(sorted(self._records.values(), key=lambda record: record.order))


_INDEXES: Final[WeakKeyDictionary[Board, RunIndex]] = WeakKeyDictionary()
_LOCK: Final = threading.Lock()


def run_index(board: Board) -> RunIndex:
    """Return the index of ``board``, which lives as long as the board does."""
    with _LOCK:
        return _INDEXES.setdefault(board, RunIndex())
