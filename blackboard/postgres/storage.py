"""The board's storage in PostgreSQL: one round trip for a group of commits, refused to all but the leader."""

from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Table, func, inspect, select, text, update
from sqlalchemy.dialects.postgresql import insert

from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.migrations import create_tables, upgrade
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.postgres.link import Statements, records, recordset, type_of
from agentsys.blackboard.postgres.reading import PostgresReader
from agentsys.blackboard.reads import SqlReader
from agentsys.blackboard.rows import cursor_from_row, cursor_to_row, entry_columns_text, entry_from_row
from agentsys.blackboard.schema import (
    BOARD,
    COMMITS,
    CURSORS,
    EFFECT_EVENTS,
    EFFECTS,
    ENTRIES,
    PAYLOADS,
    SCHEMA_VERSION,
)
from agentsys.blackboard.sql_storage import SqlStorage
from agentsys.blackboard.storage import (
    BoardCorrupt,
    BoardForbidden,
    BoardMissing,
    CursorState,
    HistoryCompacted,
    LogMoved,
    Maintenance,
    SchemaTooNew,
    SchemaTooOld,
    StaleEpoch,
    StorageFailed,
)

_T = TypeVar("_T")

_FENCE: Final = (
    "led AS (UPDATE board SET head = %s, head_hash = %s WHERE leader = %s AND head = %s RETURNING id)",
    # Where no row was changed this divides by zero, and all else waits for it.
    "fence AS (SELECT 1 / count(*) AS one FROM led)",
)
_LED: Final = "(SELECT one FROM fence) = 1"


def _superseding(name: str, table: Table, to: str, columns: dict[str, str], where: str) -> str:
    """Return the part that updates rows, each found through an index: a join may be planned another way round."""
    old = recordset(columns, "old")
    found = f"SELECT at.ctid AS place, old.* FROM {old} CROSS JOIN LATERAL {_indexed('ctid', table, where)}"  # noqa: S608
    updated = f'UPDATE "{table.name}" AS at SET {to} FROM {name}_found AS old WHERE {_LED} AND at.ctid = old.place'  # noqa: S608
    return f"{name}_found AS MATERIALIZED ({found}), {name} AS ({updated} RETURNING 1)"


def _indexed(columns: str, table: Table, where: str) -> str:
    # The offset keeps the planner from taking the query apart.
    return f'(SELECT {columns} FROM "{table.name}" AS at WHERE {where} OFFSET 0) AS at'  # noqa: S608


def _inserting(name: str, table: Table, after: str | None = None, conflict: str = "") -> str:
    """Return the part that inserts rows; what it counts is over before it begins."""
    columns = {column.name: type_of(column) for column in table.columns}
    listed = ", ".join(f'"{column}"' for column in columns)
    superseded = f" AND (SELECT count(*) FROM {after}) >= 0" if after else ""  # noqa: S608
    new = f"SELECT {listed} FROM {recordset(columns, 'new')} WHERE {_LED}{superseded}"  # noqa: S608
    # Only a payload may be there already.
    return f'{name} AS (INSERT INTO "{table.name}" ({listed}) {new} {conflict})'


_PARTS: Final = {
    "commits": _inserting("commits", COMMITS),
    "superseded_entries": _superseding(
        "superseded_entries",
        ENTRIES,
        "valid_to = old.by_seq",
        {"of_topic": "text", "of_key": "text", "of_version": "bigint", "by_seq": "bigint"},
        "at.topic = old.of_topic AND at.key = old.of_key AND at.version = old.of_version AND at.valid_to IS NULL",
    ),
    "payloads": _inserting("payloads", PAYLOADS, conflict="ON CONFLICT DO NOTHING"),
    "entries": _inserting("entries", ENTRIES, after="superseded_entries"),
    "intents": _inserting("intents", EFFECTS),
    "superseded_effects": _superseding(
        "superseded_effects",
        EFFECT_EVENTS,
        "valid_to = old.by_seq",
        {"of_id": "text", "by_seq": "bigint"},
        "at.effect_id = old.of_id AND at.valid_to IS NULL",
    ),
    "effects": _inserting("effects", EFFECT_EVENTS, after="superseded_effects"),
    "moves": _superseding(
        "moves",
        CURSORS,
        "position = old.to_position",
        {"of_name": "text", "to_position": "bigint"},
        "at.name = old.of_name",
    ),
}
_TOGETHER: Final = (
    ("commits",),
    ("superseded_entries", "entries"),
    ("payloads",),
    ("intents", "superseded_effects", "effects"),
    ("moves",),
)
"""Parts of which one is needed where another is: few combinations, each of them prepared."""
_COLUMNS: Final = entry_columns_text("at")
_HEADS: Final = (
    f"SELECT at.* FROM {recordset({'topic': 'text', 'key': 'text'}, 'wanted')} CROSS JOIN LATERAL "  # noqa: S608
    + _indexed(_COLUMNS, ENTRIES, "at.topic = wanted.topic AND at.key = wanted.key AND at.valid_to IS NULL")
)
_DIVISION_BY_ZERO: Final = "22012"


@cache
def _statement(parts: tuple[str, ...]) -> str:
    """Return one statement for the fence and these of :data:`_PARTS`."""
    return f"WITH {', '.join((*_FENCE, *(_PARTS[part] for part in parts)))} SELECT one FROM fence"  # noqa: S608


class PostgresStorage(SqlStorage, PostgresReader):
    """The writing side of the opening ``epoch``, which leads or learns at its next commit that it does not."""

    def __init__(self, database: PostgresDatabase, epoch: int, link: Statements | None = None) -> None:
        """Without a ``link`` it opens a connection of its own, on which each statement commits by itself."""
        super().__init__(database.readers, database, epoch)
        self._postgres = database
        self._link = link if link is not None else database.link(database.durability)

    def begin_epoch(self) -> int:
        return count_opening(self._postgres)

    def create_cursor(self, cursor: CursorState) -> CursorState:
        return create_cursor(self._postgres, cursor)

    def maintain(self, step: Maintenance) -> Any:
        return maintain(self._postgres, step)

    def close(self) -> None:
        """Give its own connection back; the others belong to the database object, which outlives a time of leading."""
        self._link.close()

    def _horizon(self) -> int:
        return self.state().horizon

    def _stored_heads(self, keys: Collection[Key]) -> Iterable[Entry]:
        wanted = records([{"topic": topic, "key": key} for topic, key in keys])
        return map(entry_from_row, self._link.rows(_HEADS, (wanted,)))

    def _patiently(self, operation: Callable[[], _T]) -> _T:
        # What is undecided here is tried again, and for how long, by whoever submitted it.
        return operation()

    def _store(self, rows: BatchRows) -> None:
        parts = tuple(
            part for together in _TOGETHER if any(getattr(rows, part) for part in together) for part in together
        )
        first, last = rows.commits[0], rows.commits[-1]
        fence = (last["seq"], last["hash"], self.epoch, first["seq"] - 1)
        try:
            self._link.rows(_statement(parts), (*fence, *(records(getattr(rows, name)) for name in parts)))
        except StorageFailed as error:
            if getattr(error.__cause__, "sqlstate", None) == _DIVISION_BY_ZERO:
                raise self._refusal() from error
            raise

    def _refusal(self) -> Exception:
        leader = self._rows(select(BOARD.c.leader))[0].leader
        if leader != self.epoch:
            return StaleEpoch(f"{self._database.name}: epoch {self.epoch} does not lead, {leader} does.")
        return LogMoved(f"{self._database.name}: the log went on beyond what epoch {self.epoch} knows of.")


class LeasedReader(PostgresReader):
    """Reads that ask the leader's memory first, while this process leads."""

    storage: PostgresStorage | None = None

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        storage = self.storage
        remembered = None if storage is None else storage.remembered(topic, key, at)
        return remembered or super().version_at(topic, key, at)


def create_or_upgrade(database: PostgresDatabase) -> None:
    """Make sure that the board exists in the present version. Raises :class:`SchemaTooNew`, :class:`BoardCorrupt`."""
    schema = database.address.schema
    with database.translated_errors(), database.writers.begin() as connection:
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise BoardCorrupt(f"{database.name}: the database's encoding is {encoding}, a board needs UTF8.")
        if _exists(connection, database) and schema_version(connection, database) == SCHEMA_VERSION:
            return
        # Two processes may open a new board at once.
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(schema, 0))))
        if not inspect(connection).has_schema(schema):
            # Even where it does nothing this needs the right to create schemas.
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
        if _exists(connection, database):
            upgrade(connection, schema_version(connection, database))
        else:
            create_tables(connection)


def open_for_reading(location: str) -> SqlReader:
    """Return reads of the board; raises :class:`BoardMissing`, :class:`SchemaTooNew`, :class:`BoardUnreachable`."""
    database = PostgresDatabase(Address.parse(location))
    try:
        return open_reader(database)
    except BaseException:
        database.close()
        raise


def open_reader(database: PostgresDatabase) -> SqlReader:
    """Return reads of the board; raises :class:`BoardMissing`, :class:`SchemaTooNew`, ..."""
    with database.translated_errors(), database.readers.connect() as connection:
        if not _exists(connection, database):
            raise BoardMissing(f"There is no board at {database.name}.")
        version = schema_version(connection, database)
    if version < SCHEMA_VERSION:
        raise SchemaTooOld(f"{database.name} has schema version {version}; reading needs {SCHEMA_VERSION}.")
    return PostgresReader(database.readers, database)


def _exists(connection: Connection, database: PostgresDatabase) -> bool:
    """Whether the board is there; raises :class:`BoardForbidden` for one whose schema the user may not use."""
    schema = database.address.schema
    if not inspect(connection).has_table(BOARD.name, schema=schema):
        return False
    # PostgreSQL passes over such a schema in its search path, as if there were no table.
    if not connection.execute(select(func.has_schema_privilege(schema, "USAGE"))).scalar_one():
        raise BoardForbidden(f"{database.name}: its user may not use the schema {schema}.")
    return True


def schema_version(connection: Connection, database: PostgresDatabase) -> int:
    """Return the version of the board's tables; raises :class:`SchemaTooNew`."""
    version = connection.execute(select(BOARD.c.schema_version)).scalar()
    if not isinstance(version, int) or version < 1:
        raise BoardCorrupt(f"{database.name} names no schema version.")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(f"{database.name} has schema version {version}; this agentsys knows {SCHEMA_VERSION}.")
    return version


def count_opening(database: PostgresDatabase) -> int:
    """Count another opening of the board and return its number."""
    with database.translated_errors(), database.writers.begin() as connection:
        counted = update(BOARD).values(epoch=BOARD.c.epoch + 1).returning(BOARD.c.epoch)
        epoch: int = connection.execute(counted).scalar_one()
    return epoch


def maintain(database: PostgresDatabase, step: Maintenance) -> Any:
    """Do a step of upkeep. Any process may: it holds the row that every commit changes."""
    with database.translated_errors(), database.writers.begin() as connection:
        connection.execute(select(BOARD.c.id).with_for_update())
        return step.run(connection)


def create_cursor(database: PostgresDatabase, cursor: CursorState) -> CursorState:
    """Store ``cursor`` unless its name is taken; return what is stored. Any process may."""
    wanted = insert(CURSORS).values(cursor_to_row(cursor)).on_conflict_do_nothing()
    with database.translated_errors(), database.writers.begin() as connection:
        connection.execute(wanted)
        row = connection.execute(select(CURSORS).where(CURSORS.c.name == cursor.name)).one()
        # Locked, as a compaction must see the cursor or come first.
        horizon = connection.execute(select(BOARD.c.horizon).with_for_update(read=True)).scalar_one()
        if row.position < horizon:
            raise HistoryCompacted.at(row.position, horizon)
    return cursor_from_row(row)
