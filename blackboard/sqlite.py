"""The board's storage in one SQLite file: one writing connection, separate reading ones, write-ahead log."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, inspect, select, update

from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.bulk import execute, insert_rows, update_rows
from agentsys.blackboard.database import SqliteFile, over_tables_of, reader_engine
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.file_writer import FileWriter
from agentsys.blackboard.migrations import AS_PRESENT, create_tables, upgrade
from agentsys.blackboard.places import MAIN, FilePlace
from agentsys.blackboard.reads import SqlReader
from agentsys.blackboard.rows import Values, cursor_to_row, entry_columns_text, entry_from_row
from agentsys.blackboard.schema import (
    BOARD,
    COMMITS,
    CURSORS,
    EFFECT_EVENTS,
    EFFECTS,
    ENTRIES,
    SCHEMA_VERSION,
)
from agentsys.blackboard.sql_storage import SqlStorage
from agentsys.blackboard.storage import (
    BoardCorrupt,
    BoardMissing,
    BoardState,
    CursorState,
    LogMoved,
    Maintenance,
    SchemaTooNew,
    StaleEpoch,
)

_STILL_LEADING: Final = update(BOARD).where(BOARD.c.leader == bindparam("by_leader")).values(leader=BOARD.c.leader)
_SUPERSEDED_ENTRY: Final = {"topic": "of_topic", "key": "of_key", "version": "of_version"}


@dataclass(frozen=True, slots=True)
class _Statements:
    """What is said often, in the driver's own words, about the tables whose names begin with ``prefix``."""

    move_head: str
    supersede_effect: str
    keep_payload: str
    move_cursor: str
    heads: str

    @staticmethod
    def of(prefix: str) -> "_Statements":
        return _Statements(
            f"UPDATE {prefix}board SET head=?, head_hash=? WHERE leader=? AND head=?",  # noqa: S608
            f"UPDATE {prefix}effect_event SET valid_to=:by_seq WHERE effect_id=:of_id AND valid_to IS NULL",  # noqa: S608
            f"INSERT OR IGNORE INTO {prefix}payload (id, text) VALUES (:id, :text)",  # noqa: S608
            f"UPDATE {prefix}cursor SET position=:to_position WHERE name=:of_name",  # noqa: S608
            # SQLite searches its index for each of a joined list of pairs, but scans all of it for `IN` with pairs.
            f"SELECT {entry_columns_text('entry', prefix)}"  # noqa: S608
            f" FROM json_each(?) AS wanted CROSS JOIN {prefix}entry_version AS entry"
            " ON entry.topic = json_extract(wanted.value, '$[0]') AND entry.key = json_extract(wanted.value, '$[1]')"
            " WHERE entry.valid_to IS NULL",
        )


def open_reader(place: FilePlace) -> SqlReader:
    """Return reads of the board at ``place``; raises :class:`BoardMissing`, :class:`SchemaTooNew`, ..."""
    if not place.path.is_file():
        raise BoardMissing(f"There is no board at {place.path}.")
    file = SqliteFile(place)
    engine = over_tables_of(place, reader_engine(place.path))
    try:
        with file.translated_errors(), engine.connect() as connection:
            if place.board not in (there := _boards(connection, place.path)):
                raise BoardMissing(f"There is no board {place.board} in {place.path}; its boards: {', '.join(there)}.")
            version = _schema_version(connection, place)
    except BaseException:
        engine.dispose()
        raise
    if version < SCHEMA_VERSION:
        engine.dispose()
        engine = reader_engine(place.path, AS_PRESENT)
    return SqlReader(engine, file)


def boards_in(path: Path) -> list[str]:
    """Return the names of the boards in a file; raises :class:`BoardMissing` and :class:`BoardCorrupt`."""
    if not path.is_file():
        raise BoardMissing(f"There is no board at {path}.")
    engine = reader_engine(path)
    try:
        with SqliteFile(path).translated_errors(), engine.connect() as connection:
            return _boards(connection, path)
    finally:
        engine.dispose()


def state_of(place: FilePlace) -> BoardState:
    """Return how far a board has come; raises what :func:`open_reader` raises."""
    with closing(open_reader(place)) as reader:
        return reader.state()


class SqliteStorage(SqlStorage):
    """The writing side of one board of a file."""

    def __init__(self, file: FileWriter, board: str = MAIN) -> None:
        """Create or upgrade the board, begin the next epoch and lead under it."""
        place = FilePlace(file.path, board)
        self._file, self._place = file, place
        self._writer = file.connect(place)
        self._say = _Statements.of(place.prefix)
        with SqliteFile(place).translated_errors(), file.transaction():
            _create_or_upgrade(self._writer, place)
            epoch = self._next_epoch()
            self._writer.execute(update(BOARD).values(epoch=epoch, leader=epoch))
        super().__init__(over_tables_of(place, reader_engine(file.path)), SqliteFile(place), epoch)
        self._oldest = self.state().horizon

    def begin_epoch(self) -> int:
        with self._as_leader():
            epoch = self._next_epoch()
            self._writer.execute(update(BOARD).values(epoch=epoch))
        return epoch

    def create_cursor(self, cursor: CursorState) -> CursorState:
        existing = self.cursor(cursor.name)
        if existing is None:
            self._check_past(cursor.position, self._horizon())
            with self._as_leader():
                self._insert(CURSORS, [cursor_to_row(cursor)])
        return existing or cursor

    def maintain(self, step: Maintenance) -> Any:
        with self._as_leader():
            done = step.run(self._writer)
            self._oldest = self._writer.execute(select(BOARD.c.horizon)).scalar_one()
        return done

    def held(self) -> "HeldBoard":
        """Return the board within the transaction that this thread has begun with the file's writer."""
        return HeldBoard(self)

    def close(self) -> None:
        """End all reads; the file's writer stays."""
        super().close()
        with self._file.turn:
            self._writer.close()

    def _horizon(self) -> int:
        # While this storage leads, only :meth:`maintain` moves it.
        return self._oldest

    def _stored_heads(self, keys: Collection[Key]) -> Iterable[Entry]:
        wanted = (json.dumps([*keys]),)
        # It is the writer who asks, and borrowing another connection costs more than the question.
        if self._file.turn.acquire(blocking=False):
            try:
                with self._database.translated_errors():
                    rows = execute(self._writer, self._say.heads, wanted).fetchall()
            finally:
                self._file.turn.release()
        else:
            # Another board of the file is at the disk.
            with self._connection() as connection:
                rows = connection.exec_driver_sql(self._say.heads, wanted).fetchall()
        return map(entry_from_row, rows)

    def _store(self, rows: BatchRows) -> None:
        with self._database.translated_errors():
            self._file.write(lambda driver: self._add(driver, rows))

    def _add(self, driver: Any, rows: BatchRows) -> None:
        first, last = rows.commits[0], rows.commits[-1]
        moved = driver.execute(self._say.move_head, (last["seq"], last["hash"], self.epoch, first["seq"] - 1))
        if moved.rowcount != 1:
            self._check_leader()
            raise LogMoved(f"{self._database.name}: the log went on beyond what epoch {self.epoch} knows of.")
        self._insert(COMMITS, rows.commits)
        update_rows(
            self._writer, self._table(ENTRIES), rows.superseded_entries, "valid_to", "by_seq", _SUPERSEDED_ENTRY
        )
        for statement, values in (
            (self._say.supersede_effect, rows.superseded_effects),
            (self._say.move_cursor, rows.moves),
            (self._say.keep_payload, rows.payloads),
        ):
            if values:
                driver.executemany(statement, values)
        self._insert(ENTRIES, rows.entries)
        self._insert(EFFECTS, rows.intents)
        self._insert(EFFECT_EVENTS, rows.effects)

    @contextmanager
    def _as_leader(self) -> Iterator[None]:
        """Hold a transaction in which nobody else comes to lead."""
        with self._database.translated_errors(), self._file.transaction():
            self._check_leader()
            yield

    def _check_leader(self) -> None:
        if self._writer.execute(_STILL_LEADING, {"by_leader": self.epoch}).rowcount != 1:
            raise StaleEpoch(f"{self._database.name}: epoch {self.epoch} is over.")

    def _next_epoch(self) -> int:
        """Return a number that no opening of any board of the file had: all boards share the processes' lock file."""
        tables = [FilePlace(self._file.path, board).prefix for board in _boards(self._writer, self._file.path)]
        numbers = " UNION ALL ".join(f"SELECT max(epoch) AS epoch FROM {prefix}board" for prefix in tables)  # noqa: S608
        newest: int = self._writer.exec_driver_sql(f"SELECT max(epoch) FROM ({numbers})").scalar_one()  # noqa: S608
        return newest + 1

    def _table(self, table: Table) -> str:
        return f"{self._place.prefix}{table.name}"

    def _insert(self, table: Table, rows: list[Values]) -> None:
        insert_rows(self._writer, self._table(table), table, rows)


class HeldBoard(SqliteStorage):
    """A board within a transaction over several boards: it reads and adds over that transaction's connection."""

    def __init__(self, board: SqliteStorage) -> None:
        """Use :meth:`SqliteStorage.held`."""
        self._file, self._place, self._say, self._writer = board._file, board._place, board._say, board._writer
        SqlStorage.__init__(self, board._readers, board._database, board.epoch)
        self.board = self.state()

    def enter(self) -> None:
        """Nothing needs to be said before statements about this board."""

    def close(self) -> None:
        """It ends with the transaction."""

    def _horizon(self) -> int:
        return self.board.horizon

    def _store(self, rows: BatchRows) -> None:
        self._add(self._writer.connection.driver_connection, rows)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        yield self._writer


def _create_or_upgrade(connection: Connection, place: FilePlace) -> None:
    if place.board in _boards(connection, place.path):
        upgrade(connection, _schema_version(connection, place))
    else:
        create_tables(connection)


def _boards(connection: Connection, path: Path) -> list[str]:
    """Return the names of the boards in a file, of which an empty one has none; raises :class:`BoardCorrupt`."""
    tables = inspect(connection).get_table_names()
    named = [name.removesuffix(f"${BOARD.name}") for name in tables if name.endswith(f"${BOARD.name}")]
    boards = ([MAIN] if BOARD.name in tables else []) + sorted(named)
    if tables and not boards:
        raise BoardCorrupt(f"{path} is an SQLite file, but no board.")
    return boards


def _schema_version(connection: Connection, place: FilePlace) -> int:
    """Return the version of the board's tables; raises :class:`BoardCorrupt` and :class:`SchemaTooNew`."""
    version: Any = connection.execute(select(BOARD.c.schema_version)).scalar()
    if not isinstance(version, int) or version < 1:
        raise BoardCorrupt(f"{place} names no schema version.")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(f"{place} has schema version {version}; this agentsys knows {SCHEMA_VERSION}.")
    return version
