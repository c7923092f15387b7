"""Reads of a board's tables in SQLAlchemy Core, for any database."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Select, and_, bindparam, exists, func, select

from agentsys.blackboard.chain import GENESIS, commit_hash
from agentsys.blackboard.effects import Effect, EffectState
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import (
    ENTRY_COLUMNS,
    AnyRow,
    commit_from_row,
    cursor_from_row,
    effect_from_row,
    entry_from_row,
)
from agentsys.blackboard.schema import BOARD, COMMITS, CURSORS, EFFECT_EVENTS, EFFECTS, ENTRIES
from agentsys.blackboard.selection import covers
from agentsys.blackboard.snapshots import VERSION_AT, query_at
from agentsys.blackboard.storage import BoardClosed, BoardState, ChainBroken, CursorState
from agentsys.blackboard.transactions import Commit

_T = TypeVar("_T")

PAGE: Final = 500
"""Commits assembled per step when the log is read."""

_EFFECT_COLUMNS: Final = [
    *EFFECTS.columns,
    *(column for column in EFFECT_EVENTS.columns if column.name not in ("effect_id", "valid_to")),
]

_ENTRY_SPANS: Final = select(
    ENTRIES.c.valid_from.label("seq"),
    ENTRIES.c.valid_to,
    func.lead(ENTRIES.c.valid_from)
    .over(partition_by=[ENTRIES.c.topic, ENTRIES.c.key], order_by=ENTRIES.c.valid_from)
    .label("next_seq"),
).subquery()
_EFFECT_SPANS: Final = select(
    EFFECT_EVENTS.c.seq,
    EFFECT_EVENTS.c.valid_to,
    func.lead(EFFECT_EVENTS.c.seq)
    .over(partition_by=EFFECT_EVENTS.c.effect_id, order_by=[EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.ordinal])
    .label("next_seq"),
).subquery()
_WRONG_SPANS: Final = [
    # A version is current until exactly the commit that wrote the next one.
    select(spans.c.seq).where(spans.c.valid_to.is_distinct_from(spans.c.next_seq)).limit(1)
    for spans in (_ENTRY_SPANS, _EFFECT_SPANS)
]


class Database(Protocol):
    """What differs between databases."""

    @property
    def name(self) -> str:
        """What messages call the board: its path, or its address without the password."""

    def translated_errors(self) -> AbstractContextManager[None]:
        """Raise database errors as the board's own."""

    def patiently(self, operation: Callable[[], _T]) -> _T:
        """Return what ``operation``, a read, returns, repeating it if the database may come back by itself."""

    def check(self, connection: Connection) -> None:
        """Verify the medium as far as the database can; raises :class:`BoardCorrupt`."""


class SqlReader:
    """Reads of committed state over ``engine``; every call borrows a connection and gives it back."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._readers = engine
        self._database = database
        self._closed = False

    def state(self) -> BoardState:
        head, head_hash, epoch = self._rows(select(BOARD.c.head, BOARD.c.head_hash, BOARD.c.epoch))[0]
        return BoardState(head, head_hash, epoch)

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        rows = self._rows(VERSION_AT, {"topic": topic, "key": key, "at": at})
        return entry_from_row(rows[0]) if rows else None

    def query_at(self, predicate: Predicate, at: int, limit: int | None = None) -> list[Entry]:
        statement = query_at(predicate, self._readers.dialect.name)
        if limit is not None and not predicate.equals:
            statement = statement.limit(limit)
        found = (entry for entry in map(entry_from_row, self._rows(statement, {"at": at})) if predicate.matches(entry))
        return list(found)[:limit]

    def commits(
        self,
        after: int,
        *,
        limit: int | None = None,
        run: str | None = None,
        predicate: Predicate | None = None,
        tx_ids: Collection[str] | None = None,
    ) -> list[Commit]:
        statement = select(COMMITS).where(COMMITS.c.seq > after).order_by(COMMITS.c.seq)
        if run is not None:
            statement = statement.where(COMMITS.c.run == run)
        if tx_ids is not None:
            statement = statement.where(COMMITS.c.tx_id.in_(tx_ids))
        if predicate is not None:
            statement = statement.where(exists().where(ENTRIES.c.valid_from == COMMITS.c.seq, *covers(predicate)))
        rows = self._rows(statement.limit(limit))
        return [
            commit for start in range(0, len(rows), PAGE) for commit, _ in self._assemble(rows[start : start + PAGE])
        ]

    def latest(self, before: int | None, *, limit: int | None, run: str | None) -> list[Commit]:
        statement = select(COMMITS).order_by(COMMITS.c.seq.desc()).limit(limit)
        if before is not None:
            statement = statement.where(COMMITS.c.seq < before)
        if run is not None:
            statement = statement.where(COMMITS.c.run == run)
        rows = self._rows(statement)
        return [
            commit for start in range(0, len(rows), PAGE) for commit, _ in self._assemble(rows[start : start + PAGE])
        ]

    def history(self, topic: str, key: str) -> list[Entry]:
        at = ENTRIES.c
        statement = select(*ENTRY_COLUMNS).where(at.topic == topic, at.key == key).order_by(at.valid_from)
        return [entry_from_row(row) for row in self._rows(statement)]

    def effects(
        self, *, run: str | None = None, state: EffectState | None = None, ids: Collection[str] | None = None
    ) -> list[Effect]:
        statement = (
            select(*_EFFECT_COLUMNS)
            .join(EFFECT_EVENTS, and_(EFFECT_EVENTS.c.effect_id == EFFECTS.c.id, EFFECT_EVENTS.c.valid_to.is_(None)))
            .order_by(EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.ordinal)
        )
        if run is not None:
            statement = statement.where(EFFECTS.c.run == run)
        if state is not None:
            statement = statement.where(EFFECT_EVENTS.c.state == state.value)
        if ids is not None:
            statement = statement.where(EFFECTS.c.id.in_(ids))
        return [effect_from_row(row) for row in self._rows(statement)]

    def cursor(self, name: str) -> CursorState | None:
        rows = self._rows(select(CURSORS).where(CURSORS.c.name == bindparam("name")), {"name": name})
        return cursor_from_row(rows[0]) if rows else None

    def check(self) -> int:
        with self._connection() as connection:
            self._database.check(connection)
        state = self.state()
        seq, previous = 0, GENESIS
        statement = select(COMMITS).order_by(COMMITS.c.seq).limit(PAGE)
        while page := self._rows(statement.where(COMMITS.c.seq > seq, COMMITS.c.seq <= state.head)):
            for commit, texts in self._assembled_or_broken(page):
                seq += 1
                if commit.seq != seq or commit.prev_hash != previous or commit_hash(commit, texts) != commit.hash:
                    raise ChainBroken(f"{self._database.name}: commit {seq} of {state.head} is not what was committed.")
                previous = commit.hash
        if (seq, previous) != (state.head, state.head_hash):
            raise ChainBroken(f"{self._database.name}: the log ends at commit {seq}, the board at {state.head}.")
        for wrong_span in _WRONG_SPANS:
            for row in self._rows(wrong_span):
                raise ChainBroken(f"{self._database.name}: the time for which commit {row.seq} holds was changed.")
        return seq

    def _assembled_or_broken(self, rows: Sequence[AnyRow]) -> list[tuple[Commit, tuple[str | None, ...]]]:
        try:
            return list(self._assemble(rows))
        except (ValueError, TypeError, KeyError) as error:
            raise ChainBroken(f"{self._database.name}: commits {rows[0].seq} to {rows[-1].seq}: {error}.") from error

    def connected(self) -> AbstractContextManager[Connection]:
        """Give a connection to the board's tables, on which each statement is a transaction of its own."""
        return self._connection()

    def close(self) -> None:
        """End every later read with :class:`BoardClosed`, also of transactions that outlive the board."""
        self._closed = True
        self._readers.dispose()

    def _assemble(self, rows: Sequence[AnyRow]) -> Iterable[tuple[Commit, tuple[str | None, ...]]]:
        """Yield the commits of ``rows`` with the JSON texts of their values."""
        if not rows:
            return
        numbers = [row.seq for row in rows]
        entries: dict[int, list[AnyRow]] = defaultdict(list)
        for row in self._rows(
            select(*ENTRY_COLUMNS)
            .where(ENTRIES.c.valid_from.in_(numbers))
            .order_by(ENTRIES.c.valid_from, ENTRIES.c.ordinal)
        ):
            entries[row.valid_from].append(row)
        effects: dict[int, list[Effect]] = defaultdict(list)
        for row in self._rows(
            select(*_EFFECT_COLUMNS)
            .join(EFFECT_EVENTS, EFFECT_EVENTS.c.effect_id == EFFECTS.c.id)
            .where(EFFECT_EVENTS.c.seq.in_(numbers))
            .order_by(EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.ordinal)
        ):
            effects[row.seq].append(effect_from_row(row))
        for row in rows:
            written = entries[row.seq]
            commit = commit_from_row(row, map(entry_from_row, written), effects[row.seq])
            yield commit, tuple(entry.value for entry in written)

    def _rows(self, statement: Select[*tuple[Any, ...]], parameters: dict[str, Any] | None = None) -> Sequence[AnyRow]:
        def read() -> Sequence[AnyRow]:
            with self._connection() as connection:
                return connection.execute(statement, parameters or {}).all()

        return self._database.patiently(read)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if self._closed:
            # The engine would quietly connect again.
            raise BoardClosed(f"{self._database.name} was closed.")
        with self._database.translated_errors(), self._readers.connect() as connection:
            yield connection
