"""The board's storage in PostgreSQL: one round trip for a group of commits, refused to all but the leader."""

from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Connection,
    Float,
    Insert,
    Integer,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    func,
    inspect,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.migrations import create_tables, upgrade
from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.reads import SqlReader
from agentsys.blackboard.rows import ENTRY_COLUMNS, Values, cursor_from_row, cursor_to_row, entry_from_row
from agentsys.blackboard.schema import BOARD, COMMITS, CURSORS, EFFECT_EVENTS, EFFECTS, ENTRIES, SCHEMA_VERSION
from agentsys.blackboard.sql_storage import SqlStorage
from agentsys.blackboard.storage import (
    BoardCorrupt,
    BoardMissing,
    BoardUnreachable,
    CursorState,
    SchemaTooNew,
    StaleEpoch,
)

_DIALECT: Final[Any] = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_ARRAYS: Final[dict[type, Any]] = {int: ARRAY(BigInteger()), float: ARRAY(Float()), str: ARRAY(Text())}


def _arrays(columns: dict[str, type]) -> Any:
    """Return a table of rows that arrive as one array for each column."""
    arrays = (bindparam(name, type_=_ARRAYS[kind]) for name, kind in columns.items())
    return func.unnest(*arrays).table_valued(*columns).render_derived()


def _insert_arrays(table: Table) -> Insert:
    columns = {column.name: _python_type(column) for column in table.columns}
    return insert(table).from_select(list(columns), select(_arrays(columns)))


def _python_type(column: Column[Any]) -> type:
    return int if isinstance(column.type, (Integer, BigInteger)) else float if isinstance(column.type, Float) else str


def _fence() -> Select[*tuple[Any, ...]]:
    led = (
        update(BOARD)
        .where(BOARD.c.leader == bindparam("of_leader"), BOARD.c.head == bindparam("of_head"))
        .values(head=bindparam("to_head"), head_hash=bindparam("to_hash"))
        .returning(BOARD.c.id)
        .cte("led")
    )
    # Where no row was changed this divides by zero: the rest of the transaction is under way already and must fail.
    return select(literal_column("1") / func.count()).select_from(led)


def _supersede_entries() -> Update:
    old = _arrays({"of_topic": str, "of_key": str, "of_version": int, "by_seq": int})
    address = (ENTRIES.c.topic == old.c.of_topic, ENTRIES.c.key == old.c.of_key)
    current = (ENTRIES.c.version == old.c.of_version, ENTRIES.c.valid_to.is_(None))
    return update(ENTRIES).where(*address, *current).values(valid_to=old.c.by_seq)


def _supersede_effects() -> Update:
    old = _arrays({"of_id": str, "by_seq": int})
    where = (EFFECT_EVENTS.c.effect_id == old.c.of_id, EFFECT_EVENTS.c.valid_to.is_(None))
    return update(EFFECT_EVENTS).where(*where).values(valid_to=old.c.by_seq)


def _move_cursors() -> Update:
    moved = _arrays({"of_name": str, "to_position": int})
    return update(CURSORS).where(CURSORS.c.name == moved.c.of_name).values(position=moved.c.to_position)


def _text(statement: Any) -> str:
    """Return a statement as the driver takes it."""
    return str(statement.compile(dialect=_DIALECT))


_FENCE: Final = _text(_fence())
_STATEMENTS: Final = {
    # In this order: a version is superseded before the next one is current.
    "commits": _text(_insert_arrays(COMMITS)),
    "superseded_entries": _text(_supersede_entries()),
    "entries": _text(_insert_arrays(ENTRIES)),
    "intents": _text(_insert_arrays(EFFECTS)),
    "superseded_effects": _text(_supersede_effects()),
    "effects": _text(_insert_arrays(EFFECT_EVENTS)),
    "moves": _text(_move_cursors()),
}
_WANTED: Final = _arrays({"of_topic": str, "of_key": str})
_HEADS: Final = (
    select(*ENTRY_COLUMNS)
    .join(_WANTED, (ENTRIES.c.topic == _WANTED.c.of_topic) & (ENTRIES.c.key == _WANTED.c.of_key))
    .where(ENTRIES.c.valid_to.is_(None))
)
_DIVISION_BY_ZERO: Final = "22012"


class PostgresStorage(SqlStorage):
    """The writing side of the opening ``epoch``, which leads or learns at its next commit that it does not."""

    def __init__(self, database: PostgresDatabase, epoch: int) -> None:
        super().__init__(database.readers, database, epoch)
        self._postgres = database

    def begin_epoch(self) -> int:
        return count_opening(self._postgres)

    def create_cursor(self, cursor: CursorState) -> CursorState:
        return create_cursor(self._postgres, cursor)

    def close(self) -> None:
        """Nothing: the connections belong to the database object, which outlives a time of leading."""

    def _stored_heads(self, keys: Collection[Key]) -> Iterable[Entry]:
        wanted = {"of_topic": [topic for topic, _ in keys], "of_key": [key for _, key in keys]}
        return map(entry_from_row, self._rows(_HEADS, wanted))

    def _store(self, rows: BatchRows) -> None:
        with self._database.translated_errors():
            pooled = self._postgres.writers.raw_connection()
            try:
                self._send(pooled.driver_connection, rows)
            except BaseException as error:
                # What became of the transaction is unknown; with its connection it ends.
                pooled.invalidate()
                if getattr(error, "sqlstate", None) == _DIVISION_BY_ZERO:
                    raise self._refusal() from error
                raise
            finally:
                pooled.close()

    def _send(self, connection: Any, rows: BatchRows) -> None:
        first, last = rows.commits[0], rows.commits[-1]
        fence = {
            "of_leader": self.epoch,
            "of_head": first["seq"] - 1,
            "to_head": last["seq"],
            "to_hash": last["hash"],
        }
        with connection.pipeline():
            connection.execute(_FENCE, fence)
            for name, statement in _STATEMENTS.items():
                values: list[Values] = getattr(rows, name)
                if values:
                    connection.execute(statement, {column: [row[column] for row in values] for column in values[0]})
            connection.commit()

    def _refusal(self) -> Exception:
        leader = self._rows(select(BOARD.c.leader))[0].leader
        if leader != self.epoch:
            return StaleEpoch(f"{self._database.name}: epoch {self.epoch} does not lead, {leader} does.")
        return BoardUnreachable(f"{self._database.name}: the log went on while the connection was lost.")


def create_or_upgrade(database: PostgresDatabase) -> None:
    """Make sure that the board exists in the present version. Raises :class:`SchemaTooNew`, :class:`BoardCorrupt`."""
    schema = database.address.schema
    with database.translated_errors(), database.writers.begin() as connection:
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise BoardCorrupt(f"{database.name}: the database's encoding is {encoding}, a board needs UTF8.")
        if _exists(connection, schema) and schema_version(connection, database) == SCHEMA_VERSION:
            return
        # Two processes may open a new board at once.
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(schema, 0))))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
        if _exists(connection, schema):
            upgrade(connection, schema_version(connection, database))
        else:
            create_tables(connection)


def open_reader(database: PostgresDatabase) -> SqlReader:
    """Return reads of the board; raises :class:`BoardMissing`, :class:`SchemaTooNew`, ..."""
    with database.translated_errors(), database.readers.connect() as connection:
        if not _exists(connection, database.address.schema):
            raise BoardMissing(f"There is no board at {database.name}.")
        schema_version(connection, database)
    return SqlReader(database.readers, database)


def _exists(connection: Connection, schema: str) -> bool:
    return inspect(connection).has_table(BOARD.name, schema=schema)


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


def create_cursor(database: PostgresDatabase, cursor: CursorState) -> CursorState:
    """Store ``cursor`` unless its name is taken; return what is stored. Any process may."""
    wanted = insert(CURSORS).values(cursor_to_row(cursor)).on_conflict_do_nothing()
    with database.translated_errors(), database.writers.begin() as connection:
        connection.execute(wanted)
        row = connection.execute(select(CURSORS).where(CURSORS.c.name == cursor.name)).one()
    return cursor_from_row(row)
