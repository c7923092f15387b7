"""Reads of a board's tables in SQLAlchemy Core, for any database."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Select, and_, bindparam, exists, or_, select

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectState
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.payloads import stored_digest
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
from agentsys.blackboard.snapshots import HORIZON, VERSION_AT, query_at
from agentsys.blackboard.storage import BoardClosed, BoardState, CursorState, HistoryCompacted
from agentsys.blackboard.verification import verify

_T = TypeVar("_T")

PAGE: Final = 500
"""Commits assembled per step when the log is read."""

STATE: Final = select(BOARD.c.head, BOARD.c.head_hash, BOARD.c.epoch, BOARD.c.horizon)
_EFFECT_COLUMNS: Final = [
    *EFFECTS.columns,
    *(column for column in EFFECT_EVENTS.columns if column.name not in ("effect_id", "valid_to")),
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
        return BoardState(*self._rows(STATE)[0])

    @property
    def name(self) -> str:
        """What messages call the board."""
        return self._database.name

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]:
        return self._rows(statement)

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        rows = self._as_of(VERSION_AT, {"topic": topic, "key": key, "at": at})
        return entry_from_row(rows[0]) if rows else None

    def query_at(self, predicate: Predicate, at: int, limit: int | None = None) -> list[Entry]:
        statement = query_at(predicate, self._readers.dialect.name)
        if limit is not None and not predicate.equals:
            statement = statement.limit(limit)
        found = (entry for entry in map(entry_from_row, self._as_of(statement, {"at": at})) if predicate.matches(entry))
        return list(found)[:limit]

    def commits(
        self,
        after: int | None,
        *,
        limit: int | None = None,
        run: str | None = None,
        predicate: Predicate | None = None,
        tx_ids: Collection[str] | None = None,
    ) -> list[Commit]:
        if after is None:
            return self._undisturbed(
                lambda horizon: self.commits(horizon, limit=limit, run=run, predicate=predicate, tx_ids=tx_ids)
            )
        statement = select(COMMITS).where(COMMITS.c.seq > after).order_by(COMMITS.c.seq)
        if run is not None:
            statement = statement.where(COMMITS.c.run == run)
        if tx_ids is not None:
            statement = statement.where(COMMITS.c.tx_id.in_(tx_ids))
        if predicate is not None:
            statement = statement.where(exists().where(ENTRIES.c.valid_from == COMMITS.c.seq, *covers(predicate)))
        found = self._assembled(self._rows(statement.limit(limit)))
        self._check_past(after, self.state().horizon)
        return found

    def latest(self, before: int | None, *, limit: int | None, run: str | None) -> list[Commit]:
        statement = select(COMMITS).order_by(COMMITS.c.seq.desc()).limit(limit)
        if before is not None:
            statement = statement.where(COMMITS.c.seq < before)
        if run is not None:
            statement = statement.where(COMMITS.c.run == run)
        return self._undisturbed(lambda horizon: self._assembled(self._rows(statement.where(COMMITS.c.seq > horizon))))

    def history(self, topic: str, key: str) -> list[Entry]:
        at = ENTRIES.c
        kept = or_(at.valid_to.is_(None), at.valid_to > HORIZON)
        statement = select(*ENTRY_COLUMNS).where(at.topic == topic, at.key == key, kept).order_by(at.valid_from)
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
        return verify(self)

    def connected(self) -> AbstractContextManager[Connection]:
        """Give a connection to the board's tables, on which each statement is a transaction of its own."""
        return self._connection()

    def close(self) -> None:
        """End every later read with :class:`BoardClosed`, also of transactions that outlive the board."""
        self._closed = True
        self._readers.dispose()

    def _as_of(self, statement: Select[*tuple[Any, ...]], parameters: dict[str, Any]) -> Sequence[AnyRow]:
        """Return the rows of a statement of :mod:`agentsys.blackboard.snapshots`, if its state can still be read."""
        rows = self._rows(statement, parameters)
        self._check_past(parameters["at"], rows[-1][-1] if rows else self.state().horizon)
        return rows

    def _check_past(self, at: int, horizon: int) -> None:
        if at < horizon:
            raise HistoryCompacted.at(at, horizon)

    def _undisturbed(self, read: Callable[[int], list[_T]]) -> list[_T]:
        """Return what ``read`` returns, given the horizon, once that stayed the same meanwhile."""
        while True:
            horizon = self.state().horizon
            with suppress(HistoryCompacted):
                found = read(horizon)
                if self.state().horizon == horizon:
                    return found

    def _assembled(self, rows: Sequence[AnyRow]) -> list[Commit]:
        pages = (rows[start : start + PAGE] for start in range(0, len(rows), PAGE))
        return [commit for page in pages for commit, _ in self.assemble(page)]

    def assemble(self, rows: Sequence[AnyRow]) -> Iterable[tuple[Commit, tuple[str | None, ...]]]:
        """Yield the commits of ``rows`` with the digests of their values."""
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
            yield commit, tuple(stored_digest(entry.value, entry.payload) for entry in written)

    def _rows(self, statement: Select[*tuple[Any, ...]], parameters: dict[str, Any] | None = None) -> Sequence[AnyRow]:
        def read() -> Sequence[AnyRow]:
            with self._connection() as connection:
                return connection.execute(statement, parameters or {}).all()

        return self._patiently(read)

    def _patiently(self, operation: Callable[[], _T]) -> _T:
        return self._database.patiently(operation)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if self._closed:
            # The engine would quietly connect again.
            raise BoardClosed(f"{self._database.name} was closed.")
        with self._database.translated_errors(), self._readers.connect() as connection:
            yield connection
