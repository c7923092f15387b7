"""The board's tables of every version, and the steps between them, in Alembic's operations: for both databases.

A new board gets the present tables at once. An older one is upgraded in the transaction that opens it for writing; a
test holds that both ways lead to the same tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    MetaData,
    String,
    Text,
    insert,
    text,
    update,
)
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable, ExecutableDDLElement
from sqlalchemy.sql import quoted_name

from agentsys.blackboard.chain import GENESIS
from agentsys.blackboard.database import prefix_of
from agentsys.blackboard.schema import BOARD, SCHEMA_VERSION, BoardModel, SharedModel

if TYPE_CHECKING:
    from alembic.operations import Operations


def create_tables(connection: Connection) -> None:
    """Create the tables of an empty board, as they are now."""
    _create_board(connection, prefix_of(connection))
    if connection.dialect.name == "postgresql":
        SharedModel.metadata.create_all(connection)
    connection.execute(
        insert(BOARD),
        [{"id": 1, "schema_version": SCHEMA_VERSION, "epoch": 0, "head": 0, "head_hash": GENESIS, "horizon": 0}],
    )


def _create_board(connection: Connection, prefix: str) -> None:
    if not prefix:
        BoardModel.metadata.create_all(connection)
        return
    named = MetaData()
    for table in BoardModel.metadata.sorted_tables:
        created = table.to_metadata(named, name=f"{prefix}{table.name}")
        for index in created.indexes:
            index.name = quoted_name(f"{prefix}{index.name}", quote=None)
        steps: list[ExecutableDDLElement] = [CreateTable(created), *map(CreateIndex, created.indexes)]
        for step in steps:
            # They have their full names already.
            connection.execute(step, execution_options={"schema_translate_map": {}})


def drop_tables(connection: Connection) -> None:
    """Drop the tables of a board in a file, with its rows."""
    for table in reversed(BoardModel.metadata.sorted_tables):
        connection.execute(DropTable(table))


def upgrade(connection: Connection, version: int, to: int = SCHEMA_VERSION) -> None:
    """Bring the tables from ``version`` (0: there are none) up to version ``to``, within the caller's transaction."""
    if version == to:
        return
    # Imported here, as few openings need it.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    operations = Operations(MigrationContext.configure(connection))
    for step in _STEPS[version:to]:
        step(operations)
    connection.execute(update(BOARD).values(schema_version=to))


AS_PRESENT: Final = (
    "CREATE TEMP VIEW board AS SELECT *, 0 AS horizon FROM main.board",
    "CREATE TEMP VIEW entry_version AS SELECT *, NULL AS payload FROM main.entry_version",
    "CREATE TEMP TABLE payload (id, text)",
    "CREATE TEMP TABLE snapshot_lease (id, snapshot, expires_at)",
)
"""What lets a connection to SQLite read the tables of an earlier version as if they were the present ones."""

# What follows describes the past and never changes, so it shares nothing with the tables of the present.
_NAME: Final[Any] = String().with_variant(String(collation="C"), "postgresql")
_NUMBER: Final[Any] = BigInteger().with_variant(Integer(), "sqlite")


def _column(name: str, type_: Any, *, null: bool = False, key: bool = False) -> Column[Any]:
    return Column(name, type_, nullable=null, primary_key=key, autoincrement=False)


def _to_1(operations: Operations) -> None:
    _create_board_and_log_1(operations)
    _create_entries(operations, ("topic", "key", "version"))
    _create_effects_1(operations)


def _create_board_and_log_1(operations: Operations) -> None:
    operations.create_table(
        "board",
        _column("id", Integer(), key=True),
        _column("schema_version", Integer()),
        _column("epoch", _NUMBER),
        _column("head", _NUMBER),
        _column("head_hash", String()),
    )
    operations.create_table(
        "commit_log",
        _column("seq", _NUMBER, key=True),
        Column("tx_id", _NAME, nullable=False, unique=True),
        _column("principal", String()),
        _column("run", _NAME, null=True),
        _column("snapshot", _NUMBER),
        _column("isolation", String()),
        _column("committed_at", Float()),
        _column("cursors", String()),
        _column("prev_hash", String()),
        _column("hash", String()),
    )
    operations.create_index("commit_log_run", "commit_log", ["run", "seq"])
    operations.create_table(
        "cursor", _column("name", _NAME, key=True), _column("predicate", String()), _column("position", _NUMBER)
    )


_ENTRY_COLUMNS_1: Final[dict[str, tuple[Any, bool]]] = {
    "topic": (_NAME, False),
    "key": (_NAME, False),
    "version": (Integer(), False),
    "valid_from": (_NUMBER, False),
    "valid_to": (_NUMBER, True),
    "ordinal": (Integer(), False),
    "type": (_NAME, False),
    "writer": (String(), False),
    "run": (_NAME, True),
    "value": (Text(), True),
    "label": (String(), False),
    "derived_from": (Text(), False),
    "endorsement": (String(), True),
    "committed_at": (Float(), False),
}
"""Type of each column, and whether it may be null."""


def _create_entries(operations: Operations, keys: tuple[str, str, str], *added: Column[Any]) -> None:
    columns = [_column(name, type_, null=null, key=name in keys) for name, (type_, null) in _ENTRY_COLUMNS_1.items()]
    operations.create_table("entry_version", *columns, *added)
    current = text("valid_to IS NULL")
    operations.create_index(
        "entry_head",
        "entry_version",
        ["topic", "key"],
        unique=True,
        sqlite_where=current,
        postgresql_where=current,
    )
    operations.create_index("entry_valid_from", "entry_version", ["valid_from"])


def _create_effects_1(operations: Operations) -> None:
    operations.create_table(
        "effect",
        _column("id", _NAME, key=True),
        _column("run", _NAME, null=True),
        _column("step", String()),
        _column("tool", String()),
        _column("effect_class", String()),
        _column("arguments", Text()),
        _column("label", String()),
    )
    operations.create_index("effect_run", "effect", ["run"])
    operations.create_table(
        "effect_event",
        _column("seq", _NUMBER, key=True),
        _column("ordinal", Integer(), key=True),
        _column("effect_id", _NAME),
        _column("state", String()),
        _column("attempt", Integer()),
        _column("epoch", _NUMBER),
        _column("result", Text()),
        _column("result_label", String(), null=True),
        _column("committed_at", Float()),
        _column("valid_to", _NUMBER, null=True),
    )
    operations.create_index("effect_event_id", "effect_event", ["effect_id"])


def _to_2(operations: Operations) -> None:
    operations.add_column("board", _column("leader", _NUMBER, null=True))
    if operations.get_context().dialect.name == "postgresql":
        operations.create_table(
            "session", _column("epoch", _NUMBER, key=True), _column("alive_until", DateTime(timezone=True))
        )
        operations.create_table(
            "submission",
            _column("id", String(), key=True),
            _column("epoch", _NUMBER),
            _column("taken_by", String(), null=True),
            _column("request", Text()),
            _column("answer", Text(), null=True),
            prefixes=["UNLOGGED"],
        )


def _to_3(operations: Operations) -> None:
    operations.add_column("board", Column("horizon", _NUMBER, nullable=False, server_default="0"))
    operations.create_table("payload", _column("id", _NAME, key=True), _column("text", Text()))
    operations.create_table(
        "snapshot_lease",
        _column("id", _NAME, key=True),
        _column("snapshot", _NUMBER),
        _column("expires_at", Float()),
    )
    if operations.get_context().dialect.name == "postgresql":
        operations.add_column("entry_version", _column("payload", String(), null=True))
        operations.drop_constraint("entry_version_pkey", "entry_version")
        operations.create_primary_key("entry_version_pkey", "entry_version", ["topic", "key", "valid_from"])
    else:
        _copy_entries_3(operations)
    stored_elsewhere = text("payload IS NOT NULL")
    operations.create_index(
        "entry_payload",
        "entry_version",
        ["payload"],
        sqlite_where=stored_elsewhere,
        postgresql_where=stored_elsewhere,
    )


def _copy_entries_3(operations: Operations) -> None:
    """Give the entries another primary key, which SQLite can only do to a new table."""
    operations.rename_table("entry_version", "entry_version_2")
    for name in ("entry_head", "entry_valid_from"):
        operations.drop_index(name)
    _create_entries(operations, ("topic", "key", "valid_from"), _column("payload", String(), null=True))
    columns = ", ".join(f'"{name}"' for name in _ENTRY_COLUMNS_1)
    operations.execute(
        f"INSERT INTO entry_version ({columns}) SELECT {columns} FROM entry_version_2 ORDER BY valid_from, ordinal"  # noqa: S608
    )
    operations.drop_table("entry_version_2")


_STEPS: Final[tuple[Callable[[Operations], None], ...]] = (_to_1, _to_2, _to_3)
"""Step ``n`` (from 0) leads from version ``n`` to ``n + 1``. Files of several boards came with version 3: the steps
up to there meet only the board whose tables have plain names."""
