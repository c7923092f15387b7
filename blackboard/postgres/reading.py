"""Reads of a board in PostgreSQL. The most frequent ones go to the driver itself, in a fraction of the time."""

from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.reads import STATE, SqlReader
from agentsys.blackboard.snapshots import VERSION_AT
from agentsys.blackboard.storage import BoardClosed

_DIALECT: Final[Any] = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_COMPILED: Final = {statement: statement.compile(dialect=_DIALECT) for statement in (STATE, VERSION_AT)}
_FREQUENT: Final = {statement: (str(compiled), compiled.params) for statement, compiled in _COMPILED.items()}


class PostgresReader(SqlReader):
    """Reads over the driver's own connections, and over SQLAlchemy's for what is rare. Thread-safe."""

    _database: PostgresDatabase

    def close(self) -> None:
        super().close()
        self._database.reads.close()

    def _rows(self, statement: Select[*tuple[Any, ...]], parameters: dict[str, Any] | None = None) -> Any:
        found = _FREQUENT.get(statement)
        if found is None:
            return super()._rows(statement, parameters)
        if self._closed:
            raise BoardClosed(f"{self._database.name} was closed.")
        text, defaults = found
        given = {**defaults, **(parameters or {})}
        return self._patiently(lambda: self._database.reads.rows(text, given))
