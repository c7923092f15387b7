"""A connection of the driver's own, for what is said often: one statement, one trip, prepared once.

Rows go to the server as one JSON document for each table: the driver takes fifteen times as long to write arrays.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import psycopg
from sqlalchemy import BigInteger, Column, Float, Integer

from agentsys.blackboard.database import Durability
from agentsys.blackboard.postgres.connections import PostgresDatabase, connect

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)
# Plans are made once, while the tables may still be empty: only a loop over an index stays good as the tables grow.
_OTHER_PLANS: Final = ("seqscan", "bitmapscan", "material", "hashjoin", "mergejoin")
_OPTIONS: Final = " ".join(
    f"-c {setting}"
    for setting in (
        "plan_cache_mode=force_generic_plan",
        "jit=off",
        "default_transaction_read_only=off",
        *(f"enable_{kind}=off" for kind in _OTHER_PLANS),
    )
)


Parameters: TypeAlias = "Sequence[object] | Mapping[str, object]"


class Statements(Protocol):
    """Carries out statements in the driver's own words."""

    def rows(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Carry out a statement and return its rows."""

    def close(self) -> None: ...


class Link:
    """One connection, opened when it is first needed and again after it failed. Used by one thread at a time."""

    def __init__(self, database: PostgresDatabase, durability: Durability) -> None:
        """With ``full`` durability every commit waits for the disk, with another none does."""
        self._database = database
        self._durability = durability
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def rows(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Carry out a statement, which commits by itself, and return its rows.

        Raises the board's errors. After one, whether it was carried out is unknown, and its connection is closed.
        """
        with self._database.translated_errors():
            try:
                if self._connection is None:
                    self._connection = self._opened()
                cursor = self._connection.execute(statement.encode(), parameters, prepare=True)
                return cursor.fetchall() if cursor.description else []
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End the connection; a later statement opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> "psycopg.Connection[tuple[Any, ...]]":
        schema = self._database.address.schema
        connection = connect(self._database.address, f"-c search_path={schema} {_OPTIONS}")
        try:
            self._set_durability(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_durability(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        if self._durability != "full":
            connection.execute("SET synchronous_commit = off")
            return
        found = connection.execute("SELECT current_setting('synchronous_commit')").fetchone()
        # A stronger default than this stays.
        if found == ("off",):
            connection.execute("SET synchronous_commit = on")


def recordset(columns: Mapping[str, str], name: str) -> str:
    """Return, as a parameter of a statement, a table ``name`` of rows with ``columns``; each has a type."""
    listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    return f'json_to_recordset(%s::json) AS "{name}" ({listed})'


def records(rows: Sequence[object]) -> str:
    """Return rows as the parameter for :func:`recordset`."""
    return _ENCODER.encode(rows)


def type_of(column: "Column[Any]") -> str:
    """Return the type that a column's values have on their way."""
    if isinstance(column.type, (Integer, BigInteger)):
        return "bigint"
    return "double precision" if isinstance(column.type, Float) else "text"
