"""A connection of the driver's own, for what is said often: one statement, one trip, prepared once.

Rows go to the server as one JSON document for each table: the driver takes fifteen times as long to write arrays.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

import psycopg
from sqlalchemy import BigInteger, Column, Float, Integer

KEPT: Final = 8
"""Idle links of a pool."""
Driver: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)
Parameters: TypeAlias = "Sequence[object] | Mapping[str, object]"


class Statements(Protocol):
    """Carries out statements in the driver's own words."""

    def rows(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Carry out a statement and return its rows."""

    def close(self) -> None: ...


class Link:
    """One connection, opened when it is first needed and again after it failed. Used by one thread at a time."""

    def __init__(self, opened: Callable[[], Driver], errors: Callable[[], AbstractContextManager[None]]) -> None:
        """``errors`` turns the driver's errors into the board's."""
        self._opened, self._errors = opened, errors
        self._connection: Driver | None = None

    def rows(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Carry out a statement, which commits by itself, and return its rows.

        Raises the board's errors. After one, whether it was carried out is unknown, and its connection is closed.
        """
        with self._errors():
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


class LinkPool:
    """Links for statements of any thread, as many as are carried out at a time."""

    def __init__(self, new: Callable[[], Link]) -> None:
        self._new = new
        self._guard = threading.Lock()
        self._idle: list[Link] = []
        self._closed = False

    def rows(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Do as :meth:`Link.rows` does."""
        with self._guard:
            link = self._idle.pop() if self._idle else self._new()
        try:
            return link.rows(statement, parameters)
        finally:
            with self._guard:
                kept = not self._closed and len(self._idle) < KEPT
                if kept:
                    self._idle.append(link)
            if not kept:
                link.close()

    def close(self) -> None:
        """Close every link, those in use once they are not."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()


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
