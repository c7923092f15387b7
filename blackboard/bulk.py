"""Many rows by few statements of SQLite.

The driver lets go of the interpreter at every step of a statement, and where other threads are busy gets it back late:
a batch stored row by row can wait longer for the interpreter than for the disk.

A statement of several rows may fail after some of them. Where such a failure undoes the statement alone, which is
SQLite's default, it copies each page before it first changes it; what is stored here is one transaction, and that is
undone as a whole (``OR ROLLBACK``).
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Table

from agentsys.blackboard.rows import Values

SIZES: Final = (64, 16, 4, 1)
"""Rows of one statement: few sizes, so that the driver keeps each statement compiled."""


def insert_rows(connection: Connection, name: str, table: Table, rows: Sequence[Values]) -> None:
    """Insert ``rows``, each with all columns of ``table``, which in the database is called ``name``."""
    names = tuple(column.name for column in table.columns)
    for part in _parts(rows):
        execute(connection, _insert(name, names, len(part)), _values(part, names))


def update_rows(
    connection: Connection, table: str, rows: Sequence[Values], column: str, to: str, where: dict[str, str]
) -> None:
    """Set ``column``, where it is null, to each row's ``to``; ``where`` maps others to what the rows call them."""
    names = (to, *where.values())
    for part in _parts(rows):
        statement = _update(table, column, tuple(where), len(part))
        execute(connection, statement, _values(part, names))


def execute(connection: Connection, statement: str, values: tuple[Any, ...]) -> Any:
    """Run a statement in the driver itself, within the connection's transaction, and return the driver's cursor.

    For a commit of one row, what lies above the driver takes longer than the driver.
    """
    driver: Any = connection.connection.driver_connection
    return driver.execute(statement, values)


@cache
def _insert(table: str, names: tuple[str, ...], count: int) -> str:
    # The names are those of the schema's own tables and columns.
    return f'INSERT OR ROLLBACK INTO "{table}" ({_listed(names)}) VALUES {_marks(len(names), count)}'  # noqa: S608


@cache
def _update(table: str, column: str, where: tuple[str, ...], count: int) -> str:
    conditions = " AND ".join(f'"{table}"."{name}" = new.column{place}' for place, name in enumerate(where, 2))
    conditions += f' AND "{table}"."{column}" IS NULL'
    rows = f"(VALUES {_marks(len(where) + 1, count)}) AS new"
    return f'UPDATE OR ROLLBACK "{table}" SET "{column}" = new.column1 FROM {rows} WHERE {conditions}'  # noqa: S608


def _parts(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    start = 0
    for size in SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _values(rows: Sequence[Values], names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(map(itemgetter(*names), rows)))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _marks(width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * count)
