"""The board's storage in one SQLite file: one writing connection, separate reading ones, write-ahead log."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, and_, bindparam, insert, inspect, literal, select, update

from agentsys.blackboard.chain import GENESIS
from agentsys.blackboard.database import Durability, reader_engine, translated_errors, writer_engine
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.reads import SqlReader, addressed
from agentsys.blackboard.recent import RecentHeads
from agentsys.blackboard.rows import (
    ENTRY_COLUMNS,
    Values,
    commit_to_row,
    cursor_to_row,
    effect_to_row,
    entry_from_row,
    entry_to_row,
    intent_to_row,
)
from agentsys.blackboard.schema import (
    BOARD,
    COMMITS,
    CURSORS,
    EFFECT_EVENTS,
    EFFECTS,
    ENTRIES,
    SCHEMA_VERSION,
    BoardModel,
)
from agentsys.blackboard.storage import (
    BoardCorrupt,
    BoardMissing,
    Change,
    CursorState,
    PreparedCommit,
    SchemaTooNew,
    StaleEpoch,
)

LOOKUP: Final = 1_000
"""Keys looked up per statement; SQLite binds at most 32,766 values."""

_OLD: Final = ENTRIES.alias("old")
_HEADS: Final = select(*ENTRY_COLUMNS).where(
    ENTRIES.c.topic == bindparam("topic"),
    ENTRIES.c.key.in_(bindparam("keys", expanding=True)),
    ENTRIES.c.valid_to.is_(None),
)
_SUPERSEDE_ENTRY: Final = (
    update(ENTRIES)
    .where(
        ENTRIES.c.topic == bindparam("of_topic"),
        ENTRIES.c.key == bindparam("of_key"),
        ENTRIES.c.version == bindparam("of_version"),
    )
    .values(valid_to=bindparam("by_seq"))
)
_SUPERSEDE_EFFECT: Final = (
    update(EFFECT_EVENTS)
    .where(EFFECT_EVENTS.c.effect_id == bindparam("of_id"), EFFECT_EVENTS.c.valid_to.is_(None))
    .values(valid_to=bindparam("by_seq"))
)
_MOVE_CURSOR: Final = (
    update(CURSORS).where(CURSORS.c.name == bindparam("of_name")).values(position=bindparam("to_position"))
)


def open_reader(path: Path) -> SqlReader:
    """Return reads of the board at ``path``; raises :class:`BoardMissing`, :class:`SchemaTooNew`, ..."""
    if not path.is_file():
        raise BoardMissing(f"There is no board at {path}.")
    engine = reader_engine(path)
    with translated_errors(path), engine.connect() as connection:
        _check_schema(connection, path)
    return SqlReader(engine, path)


class SqliteStorage(SqlReader):
    """The writing side. The caller holds the board's lock; see :mod:`agentsys.blackboard.lock`."""

    def __init__(self, path: Path, durability: Durability) -> None:
        """Open or create the board at ``path`` and begin the next epoch."""
        engine = writer_engine(path, durability)
        with translated_errors(path):
            self._writer = engine.connect()
            with self._writer.begin():
                _create_or_check(self._writer, path)
                self._writer.execute(update(BOARD).values(epoch=BOARD.c.epoch + 1))
        super().__init__(reader_engine(path), path)
        self._recent = RecentHeads()

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        recent = self._recent.get((topic, key))
        if recent is not None and recent.seq <= at:
            return recent
        return super().version_at(topic, key, at)

    def heads(self, keys: Collection[Key]) -> dict[Key, Entry]:
        recent = {key: self._recent.get(key) for key in keys}
        found = {key: entry for key, entry in recent.items() if entry is not None}
        missing: dict[str, list[str]] = defaultdict(list)
        for topic, key in keys:
            if (topic, key) not in found:
                missing[topic].append(key)
        # SQLite searches its index for a list of keys within a topic, but scans all of it for a list of pairs.
        for topic, names in missing.items():
            for start in range(0, len(names), LOOKUP):
                rows = self._rows(_HEADS, {"topic": topic, "keys": names[start : start + LOOKUP]})
                found.update((entry.address, entry) for entry in map(entry_from_row, rows))
        return found

    def changes(self, after: int, predicate: Predicate) -> list[Change]:
        old_columns = [_OLD.columns[column.name] for column in ENTRY_COLUMNS]
        preceded = and_(
            _OLD.c.topic == ENTRIES.c.topic, _OLD.c.key == ENTRIES.c.key, _OLD.c.version == ENTRIES.c.version - 1
        )
        statement = (
            select(*ENTRY_COLUMNS, literal("|"), *old_columns)
            .select_from(ENTRIES.outerjoin(_OLD, preceded))
            .where(ENTRIES.c.valid_from > after, *addressed(predicate))
            .order_by(ENTRIES.c.valid_from)
        )
        width = len(ENTRY_COLUMNS)
        found = []
        for row in self._rows(statement):
            old = row[width + 1 :]
            change = Change(None if old[0] is None else entry_from_row(old), entry_from_row(row[:width]))
            if change.concerns(predicate):
                found.append(change)
        return found

    def append(self, commits: Sequence[PreparedCommit], epoch: int) -> None:
        try:
            with translated_errors(self._path), self._writer.begin():
                self._append(commits, epoch)
        except BaseException:
            # Whether the write reached the disk is unknown, and so is which version is newest.
            self._recent.clear()
            raise
        for item in commits:
            self._recent.record(item)

    def begin_epoch(self, epoch: int) -> int:
        with translated_errors(self._path), self._writer.begin():
            if self._writer.execute(update(BOARD).where(BOARD.c.epoch == epoch).values(epoch=epoch + 1)).rowcount != 1:
                raise StaleEpoch(f"{self._path}: epoch {epoch} is over.")
        return epoch + 1

    def create_cursor(self, cursor: CursorState) -> CursorState:
        existing = self.cursor(cursor.name)
        if existing is None:
            with translated_errors(self._path), self._writer.begin():
                self._insert(CURSORS, [cursor_to_row(cursor)])
        return existing or cursor

    def positions(self, names: Collection[str]) -> Mapping[str, int]:
        rows = self._rows(select(CURSORS.c.name, CURSORS.c.position).where(CURSORS.c.name.in_(names)))
        return {row.name: row.position for row in rows}

    def close(self) -> None:
        super().close()
        # The last connection to close folds the write-ahead log into the file, so the writer goes last.
        with translated_errors(self._path):
            self._writer.close()
            self._writer.engine.dispose()

    def _append(self, commits: Sequence[PreparedCommit], epoch: int) -> None:
        last = commits[-1].commit
        fence = update(BOARD).where(BOARD.c.epoch == epoch).values(head=last.seq, head_hash=last.hash)
        if self._writer.execute(fence).rowcount != 1:
            raise StaleEpoch(f"{self._path}: epoch {epoch} is over.")
        self._insert(COMMITS, [commit_to_row(item.commit) for item in commits])
        self._append_entries(commits)
        self._append_effects(commits)
        moves = [move for item in commits for move in item.commit.cursors]
        if moves:
            rows = [{"of_name": move.subscription, "to_position": move.to_seq} for move in moves]
            self._writer.execute(_MOVE_CURSOR, rows)

    def _append_entries(self, commits: Sequence[PreparedCommit]) -> None:
        rows: list[Values] = []
        newest: dict[Key, Values] = {}
        superseded: list[Values] = []
        for item in commits:
            for ordinal, (entry, text) in enumerate(zip(item.commit.writes, item.texts, strict=True)):
                row = entry_to_row(entry, text, ordinal)
                previous = newest.get(entry.address)
                if previous is not None:
                    previous["valid_to"] = entry.seq
                elif entry.version > 1:
                    superseded.append(
                        {
                            "of_topic": entry.topic,
                            "of_key": entry.key,
                            "of_version": entry.version - 1,
                            "by_seq": entry.seq,
                        }
                    )
                newest[entry.address] = row
                rows.append(row)
        if superseded:
            self._writer.execute(_SUPERSEDE_ENTRY, superseded)
        self._insert(ENTRIES, rows)

    def _append_effects(self, commits: Sequence[PreparedCommit]) -> None:
        for item in commits:
            for ordinal, effect in enumerate(item.commit.effects):
                if effect.state is EffectState.INTENDED:
                    self._insert(EFFECTS, [intent_to_row(effect.intent)])
                else:
                    self._writer.execute(_SUPERSEDE_EFFECT, {"of_id": effect.id, "by_seq": effect.seq})
                self._insert(EFFECT_EVENTS, [effect_to_row(effect, ordinal)])

    def _insert(self, table: Table, rows: list[Values]) -> None:
        if rows:
            self._writer.execute(insert(table), rows)


def _create_or_check(connection: Connection, path: Path) -> None:
    tables = inspect(connection).get_table_names()
    if tables:
        _check_schema(connection, path)
        return
    BoardModel.metadata.create_all(connection)
    row = {"id": 1, "schema_version": SCHEMA_VERSION, "epoch": 0, "head": 0, "head_hash": GENESIS}
    connection.execute(insert(BOARD), [row])


def _check_schema(connection: Connection, path: Path) -> None:
    if BOARD.name not in inspect(connection).get_table_names():
        raise BoardCorrupt(f"{path} is an SQLite file, but no board.")
    version: Any = connection.execute(select(BOARD.c.schema_version)).scalar()
    if not isinstance(version, int) or version < 1:
        raise BoardCorrupt(f"{path} names no schema version.")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(f"{path} has schema version {version}; this agentsys knows {SCHEMA_VERSION}.")
