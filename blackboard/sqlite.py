"""The board's storage in one SQLite file: one writing connection, separate reading ones, write-ahead log."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, inspect, select, update

from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.bulk import execute, insert_rows, update_rows
from agentsys.blackboard.database import Durability, SqliteFile, reader_engine, writer_engine
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.migrations import AS_PRESENT, create_tables, upgrade
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
    CursorState,
    Maintenance,
    SchemaTooNew,
    StaleEpoch,
)

_COLUMNS: Final = entry_columns_text("entry")
# SQLite searches its index for each of a joined list of pairs, but scans all of it for `IN` with pairs.
_HEADS: Final = (
    f"SELECT {_COLUMNS} FROM json_each(?) AS wanted CROSS JOIN entry_version AS entry"  # noqa: S608
    " ON entry.topic = json_extract(wanted.value, '$[0]') AND entry.key = json_extract(wanted.value, '$[1]')"
    " WHERE entry.valid_to IS NULL"
)
_MOVE_HEAD: Final = "UPDATE board SET head=?, head_hash=? WHERE leader=?"
_NEXT_EPOCH: Final = update(BOARD).where(BOARD.c.leader == bindparam("by_leader")).values(epoch=BOARD.c.epoch + 1)
_STILL_LEADING: Final = update(BOARD).where(BOARD.c.leader == bindparam("by_leader")).values(leader=BOARD.c.leader)
_SUPERSEDED_ENTRY: Final = {"topic": "of_topic", "key": "of_key", "version": "of_version"}
_SUPERSEDE_EFFECT: Final = "UPDATE effect_event SET valid_to=:by_seq WHERE effect_id=:of_id AND valid_to IS NULL"
_KEEP_PAYLOAD: Final = "INSERT OR IGNORE INTO payload (id, text) VALUES (:id, :text)"
_MOVE_CURSOR: Final = "UPDATE cursor SET position=:to_position WHERE name=:of_name"


def open_reader(path: Path) -> SqlReader:
    """Return reads of the board at ``path``; raises :class:`BoardMissing`, :class:`SchemaTooNew`, ..."""
    if not path.is_file():
        raise BoardMissing(f"There is no board at {path}.")
    engine, file = reader_engine(path), SqliteFile(path)
    with file.translated_errors(), engine.connect() as connection:
        version = _schema_version(connection, path)
    if version < SCHEMA_VERSION:
        engine.dispose()
        engine = reader_engine(path, AS_PRESENT)
    return SqlReader(engine, file)


class SqliteStorage(SqlStorage):
    """The writing side. The caller holds the board's lock; see :mod:`agentsys.blackboard.lock`."""

    def __init__(self, path: Path, durability: Durability) -> None:
        """Open, create or upgrade the board at ``path``, begin the next epoch and lead under it."""
        engine, file = writer_engine(path, durability), SqliteFile(path)
        with file.translated_errors():
            self._writer = engine.connect()
            with self._writer.begin():
                _create_or_upgrade(self._writer, path)
                following = BOARD.c.epoch + 1
                self._writer.execute(update(BOARD).values(epoch=following, leader=following))
                epoch = self._writer.execute(select(BOARD.c.epoch)).scalar_one()
        super().__init__(reader_engine(path), file, epoch)
        self._oldest = self.state().horizon

    def begin_epoch(self) -> int:
        with self._database.translated_errors(), self._writer.begin():
            self._led(self._writer.execute(_NEXT_EPOCH, {"by_leader": self.epoch}))
            epoch: int = self._writer.execute(select(BOARD.c.epoch)).scalar_one()
        return epoch

    def create_cursor(self, cursor: CursorState) -> CursorState:
        existing = self.cursor(cursor.name)
        if existing is None:
            self._check_past(cursor.position, self._horizon())
            with self._database.translated_errors(), self._writer.begin():
                self._insert(CURSORS, [cursor_to_row(cursor)])
        return existing or cursor

    def maintain(self, step: Maintenance) -> Any:
        with self._database.translated_errors(), self._writer.begin():
            self._led(self._writer.execute(_STILL_LEADING, {"by_leader": self.epoch}))
            done = step.run(self._writer)
            self._oldest = self._writer.execute(select(BOARD.c.horizon)).scalar_one()
        return done

    def close(self) -> None:
        super().close()
        # The last connection to close folds the write-ahead log into the file, so the writer goes last.
        with self._database.translated_errors():
            self._writer.close()
            self._writer.engine.dispose()

    def _horizon(self) -> int:
        # While this storage leads, only :meth:`maintain` moves it.
        return self._oldest

    def _stored_heads(self, keys: Collection[Key]) -> Iterable[Entry]:
        # On the writer's own connection: it is the writer who asks, and borrowing another costs more than the question.
        with self._database.translated_errors():
            rows = execute(self._writer, _HEADS, (json.dumps([*keys]),)).fetchall()
        return map(entry_from_row, rows)

    def _store(self, rows: BatchRows) -> None:
        with self._database.translated_errors(), self._transaction() as driver:
            last = rows.commits[-1]
            self._led(execute(self._writer, _MOVE_HEAD, (last["seq"], last["hash"], self.epoch)))
            self._insert(COMMITS, rows.commits)
            update_rows(self._writer, ENTRIES, rows.superseded_entries, "valid_to", "by_seq", _SUPERSEDED_ENTRY)
            for statement, values in (
                (_SUPERSEDE_EFFECT, rows.superseded_effects),
                (_MOVE_CURSOR, rows.moves),
                (_KEEP_PAYLOAD, rows.payloads),
            ):
                if values:
                    driver.executemany(statement, values)
            self._insert(ENTRIES, rows.entries)
            self._insert(EFFECTS, rows.intents)
            self._insert(EFFECT_EVENTS, rows.effects)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Give the driver's connection within one transaction; SQLAlchemy's own takes as long as storing a row."""
        driver: Any = self._writer.connection.driver_connection
        driver.execute("BEGIN IMMEDIATE")
        try:
            yield driver
            driver.commit()
        except BaseException:
            driver.rollback()
            raise

    def _led(self, changed: Any) -> None:
        """Check that a statement changed the board's row, which it may only for the leader."""
        if changed.rowcount != 1:
            raise StaleEpoch(f"{self._database.name}: epoch {self.epoch} is over.")

    def _insert(self, table: Table, rows: list[Values]) -> None:
        insert_rows(self._writer, table, rows)


def _create_or_upgrade(connection: Connection, path: Path) -> None:
    if not inspect(connection).get_table_names():
        create_tables(connection)
    else:
        upgrade(connection, _schema_version(connection, path))


def _schema_version(connection: Connection, path: Path) -> int:
    """Return the version of the board's tables; raises :class:`BoardCorrupt` and :class:`SchemaTooNew`."""
    if BOARD.name not in inspect(connection).get_table_names():
        raise BoardCorrupt(f"{path} is an SQLite file, but no board.")
    version: Any = connection.execute(select(BOARD.c.schema_version)).scalar()
    if not isinstance(version, int) or version < 1:
        raise BoardCorrupt(f"{path} names no schema version.")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(f"{path} has schema version {version}; this agentsys knows {SCHEMA_VERSION}.")
    return version
