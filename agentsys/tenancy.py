"""What one principal sees of a board that several share: what its labels let it read, and its own runs.

A run is a principal's own where it may read the run's input. Of its own runs it sees every record, though not what a
label keeps from it; of anybody else's only what the label lets it read, and not which run that came from. How far the
log has come is seen by all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Row, Select

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectState
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardState, CursorState, Reader
from agentsys.errors import LabelError
from agentsys.runs import RunRecord

T = TypeVar("T")

PAGE = 200


class OperatorOnly(LabelError):
    """A principal asked for what only the server's owner may have."""

    code = "AGS-0770"
    remedy = "Ask whoever runs the server: it is called with the owner's token."


def board_for(board: Board, principal: str) -> Board:
    """Return a board as ``principal`` sees it. It cannot be written."""
    return board.through(lambda reader: SeenBy(reader, principal))


class SeenBy:
    """A board's reader behind which there is nothing that ``principal`` does not see."""

    def __init__(self, reader: Reader, principal: str) -> None:
        self._reader = reader
        self._audience = Readers.of(principal)
        self._own: dict[str, bool] = {}

    def owns(self, run: str | None) -> bool:
        """Whether a run is the principal's own."""
        if run is None:
            return False
        if run not in self._own:
            entry = self._reader.version_at(topics.RUNS, run, self._reader.state().head)
            record = None if entry is None else RunRecord.left_in(entry)
            if record is None:
                return False
            # The input and its label are as the run began, for good.
            self._own[run] = self._may_read(record.input_label)
        return self._own[run]

    def state(self) -> BoardState:
        return self._reader.state()

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        _refuse("the board's tables")

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        found = self._reader.version_at(topic, key, at)
        return None if found is None else self._seen(found)

    def query_at(self, predicate: Predicate, at: int, limit: int | None = None) -> list[Entry]:
        return self._all_seen(self._reader.query_at(predicate, at))[:limit]

    def commits(
        self,
        after: int | None,
        *,
        limit: int | None = None,
        run: str | None = None,
        predicate: Predicate | None = None,
        tx_ids: Collection[str] | None = None,
    ) -> list[Commit]:
        def page(last: Commit | None) -> list[Commit]:
            start = after if last is None else last.seq
            return self._reader.commits(start, limit=PAGE, run=run, predicate=predicate, tx_ids=tx_ids)

        return self._pages(page, limit)

    def latest(self, before: int | None, *, limit: int | None, run: str | None) -> list[Commit]:
        def page(last: Commit | None) -> list[Commit]:
            return self._reader.latest(before if last is None else last.seq, limit=PAGE, run=run)

        return self._pages(page, limit)

    def history(self, topic: str, key: str) -> list[Entry]:
        return self._all_seen(self._reader.history(topic, key))

    def effects(
        self, *, run: str | None = None, state: EffectState | None = None, ids: Collection[str] | None = None
    ) -> list[Effect]:
        found = self._reader.effects(run=run, state=state, ids=ids)
        return [effect for effect in found if self.owns(effect.intent.run)]

    def cursor(self, name: str) -> CursorState | None:
        return None

    def check(self) -> int:
        _refuse("the whole of the log")

    def close(self) -> None:
        """Leave the board itself open."""

    def _pages(self, page: Callable[[Commit | None], list[Commit]], limit: int | None) -> list[Commit]:
        found, last = list[Commit](), None
        while limit is None or len(found) < limit:
            commits = page(last)
            found += self._commits(commits)
            if len(commits) < PAGE:
                break
            last = commits[-1]
        return found[:limit]

    def _commits(self, commits: Iterable[Commit]) -> Iterable[Commit]:
        for commit in commits:
            writes = tuple(self._all_seen(commit.writes))
            if self.owns(commit.run):
                yield replace(commit, writes=writes)
            elif writes:
                yield replace(commit, writes=writes, run=None, effects=(), cursors=())

    def _all_seen(self, entries: Iterable[Entry]) -> list[Entry]:
        return [seen for seen in map(self._seen, entries) if seen is not None]

    def _seen(self, entry: Entry) -> Entry | None:
        if self.owns(entry.key if entry.topic in (topics.RUNS, topics.LEASES) else entry.run):
            return entry
        if not self._may_read(entry.label) or (topics.is_reserved(entry.topic) and not self._is_addressed(entry)):
            return None
        return replace(entry, run=None, derived_from=())

    def _is_addressed(self, entry: Entry) -> bool:
        """Whether a record of the runtime is for the principal, though of no run of its own."""
        asked = entry.topic == topics.APPROVALS
        return asked or (entry.run is None and entry.topic != topics.RUNS and entry.label.readers != PUBLIC)

    def _may_read(self, label: Label) -> bool:
        return label.readers.permits(self._audience)


def _refuse(what: str) -> NoReturn:
    raise OperatorOnly(f"{what} is for the server's owner alone.")
