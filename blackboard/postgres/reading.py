"""Reads of a board in PostgreSQL. The most frequent ones go to the driver itself, in a fraction of the time."""

from typing import Any, Final

from sqlalchemy import Engine, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.postgres.link import Link
from agentsys.blackboard.reads import STATE, SqlReader
from agentsys.blackboard.snapshots import VERSION_AT
from agentsys.blackboard.storage import BoardClosed

KEPT: Final = 8
"""Connections that wait for the next reads."""
_DIALECT: Final[Any] = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_COMPILED: Final = {statement: statement.compile(dialect=_DIALECT) for statement in (STATE, VERSION_AT)}
_FREQUENT: Final = {statement: (str(compiled), compiled.params) for statement, compiled in _COMPILED.items()}


class PostgresReader(SqlReader):
    """Reads over several connections of the driver's own, and over SQLAlchemy's for what is rare. Thread-safe."""

    _database: PostgresDatabase

    def __init__(self, engine: Engine, database: PostgresDatabase) -> None:
        super().__init__(engine, database)
        self._idle: list[Link] = []

    def close_links(self) -> None:
        """Close the connections of the driver's own that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        super().close()
        self.close_links()

    def _rows(self, statement: Select[*tuple[Any, ...]], parameters: dict[str, Any] | None = None) -> Any:
        found = _FREQUENT.get(statement)
        if found is None:
            return super()._rows(statement, parameters)
        text, defaults = found
        return self._database.patiently(lambda: self._ask(text, {**defaults, **(parameters or {})}))

    def _ask(self, text: str, parameters: dict[str, Any]) -> Any:
        if self._closed:
            raise BoardClosed(f"{self._database.name} was closed.")
        try:
            link = self._idle.pop()
        except IndexError:
            link = Link(self._database, "normal")
        try:
            return link.rows(text, parameters)
        finally:
            if self._closed or len(self._idle) >= KEPT:
                link.close()
            else:
                self._idle.append(link)
