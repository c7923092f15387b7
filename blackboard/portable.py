"""A board as one file of JSON lines, for any database: exported while others write, imported whole or not at all.

::

    {"format": "agentsys-board", "version": 1, "schema": 2, "head": 7, "head_hash": "…", "rows": 31, …}
    {"table": "board", "columns": ["id", …]}
    [1, 2, …]
    …                                           one line for each row, table by table
    {"end": {"lines": 38, "sha256": "…"}}       over all lines before

The rows are those of one moment. The digest finds what was cut off or altered on the way; that the commits are those
that were made is for the hash chain to say, which an import checks from end to end before the board has its name.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import IO, Any, Final, TypeAlias

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, Table, func, insert, inspect, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from agentsys.blackboard.database import prefix_of
from agentsys.blackboard.migrations import upgrade
from agentsys.blackboard.schema import BOARD, SCHEMA_VERSION, SNAPSHOT_LEASES, BoardModel
from agentsys.blackboard.storage import SchemaTooNew
from agentsys.errors import BoardError

FORMAT: Final = "agentsys-board"
VERSION: Final = 1
BATCH: Final = 1_000
"""Rows read or stored by one statement."""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how much is done, and of how much."""

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class BadExport(BoardError):
    """A file is no export of a board, or not the one that was written."""

    code = "AGS-0251"
    remedy = "Export the board again, or take another copy of the file."


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """What an export says of itself: tables of version ``schema``, the newest commit and its hash, how many rows."""

    schema: int
    head: int
    head_hash: str
    rows: int
    exported_at: float


def write_export(connection: Connection, target: IO[str], progress: Progress) -> ExportHeader:
    """Write the board that ``connection`` sees; its transaction must see one moment from beginning to end."""
    digest, written, done = hashlib.sha256(), 0, 0

    def write(content: Any) -> None:
        nonlocal written
        line = _ENCODER.encode(content) + "\n"
        digest.update(line.encode())
        target.write(line)
        written += 1

    tables = list(_stored_tables(connection))
    board = connection.execute(select(BOARD.c.schema_version, BOARD.c.head, BOARD.c.head_hash)).one()
    rows = sum(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
    header = ExportHeader(*board, rows, time.time())
    write({"format": FORMAT, "version": VERSION, **asdict(header)})
    for table in tables:
        write({"table": table.name, "columns": [column.name for column in table.columns]})
        ordered = select(table).order_by(*table.primary_key)
        for part in connection.execute(ordered, execution_options={"yield_per": BATCH}).partitions():
            for row in part:
                write(list(_portable(table, row)))
            done += len(part)
            progress(done, rows)
    target.write(_ENCODER.encode({"end": {"lines": written, "sha256": digest.hexdigest()}}) + "\n")
    return header


def check_digest(source: Iterable[str]) -> ExportHeader:
    """Read an export through and return its first line. Raises :class:`BadExport` where it is not what was written."""
    digest, read, last = hashlib.sha256(), 0, ""
    header: ExportHeader | None = None
    for line in source:
        if last:
            header = header or _header(last)
            digest.update(last.encode())
            read += 1
        last = line
    if header is None:
        raise BadExport("The file is empty, or has one line only.")
    if _parsed(last, read + 1) != {"end": {"lines": read, "sha256": digest.hexdigest()}}:
        raise BadExport(f"The file's {read + 1} lines are not what was exported: some were altered, lost or added.")
    return header


def load_export(connection: Connection, source: Iterable[str], progress: Progress) -> None:
    """Create the tables of an export whose digest was checked, in an empty place, and fill them.

    They are of the version that was exported, and brought up to the present one like any older board's.
    Raises :class:`BadExport`.
    """
    reading = enumerate(source, 1)
    header = _header(next(reading)[1])
    upgrade(connection, 0, header.schema)
    done = 0
    for statement, batch in _batches(connection, reading):
        _insert(connection, statement, batch)
        done += len(batch)
        progress(min(done, header.rows), header.rows)
    if done != header.rows:
        raise BadExport(f"The export has {done} rows and announces {header.rows}.")
    upgrade(connection, header.schema)


def _insert(connection: Connection, statement: Any, batch: list[dict[str, Any]]) -> None:
    try:
        connection.execute(statement, batch)
    except (OverflowError, StatementError) as error:
        # What the database itself says of its disk or its rights is no fault of the export.
        if isinstance(error, DBAPIError) and not isinstance(error, (DataError, IntegrityError)):
            raise
        cause = getattr(error, "orig", None) or error
        raise BadExport(f"A row of the export's table {statement.table.name} cannot be stored: {cause}.") from error


def _header(line: str) -> ExportHeader:
    head = _parsed(line, 1)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise BadExport("The file does not begin like the export of a board.")
    if head.get("version") != VERSION:
        raise BadExport(f"The export has format {head.get('version')!r}; this agentsys knows {VERSION}.")
    try:
        header = ExportHeader(**{field.name: head[field.name] for field in fields(ExportHeader)})
    except KeyError as error:
        raise BadExport(f"The export's first line does not say {error}.") from error
    numbers = (header.schema, header.head, header.rows)
    if not isinstance(header.head_hash, str) or any(type(number) is not int for number in numbers):
        raise BadExport("The numbers, or the hash, that the export's first line announces are none.")
    if header.schema > SCHEMA_VERSION:
        raise SchemaTooNew(f"The export has schema version {header.schema}; this agentsys knows {SCHEMA_VERSION}.")
    return header


def _batches(connection: Connection, reading: Iterator[tuple[int, str]]) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Yield insertions, each with rows of one table, until the line that ends the export."""
    statement, columns, batch = None, list[str](), list[dict[str, Any]]()
    for number, line in reading:
        parsed = _parsed(line, number)
        if isinstance(parsed, list):
            if len(parsed) != len(columns):
                raise BadExport(f"Line {number} has {len(parsed)} fields for {len(columns)} columns.")
            batch.append(dict(zip(columns, parsed, strict=True)))
        if batch and (len(batch) == BATCH or not isinstance(parsed, list)):
            yield statement, batch
            batch = []
        if isinstance(parsed, dict) and "table" in parsed:
            statement, columns = _insertion(connection, parsed)
        elif not isinstance(parsed, list):
            return


def _insertion(connection: Connection, head: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return what inserts rows of a table, as it is now in the database, and the columns that an export gives."""
    name, columns = head["table"], head.get("columns")
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise BadExport(f"The export's table {name} has no list of columns.")
    table = next((table for table in _stored_tables(connection) if table.name == name), None)
    if table is None:
        raise BadExport(f"The export has a table {name!r}, which no board of its version has.")
    unknown = set(columns) - {column.name for column in table.columns}
    if unknown:
        raise BadExport(f"The export's table {name} has a column {min(unknown)!r}, which no board of its version has.")
    return insert(table), columns


def _stored_tables(connection: Connection) -> Iterator[Table]:
    """Yield the tables that travel, as they are in the database, which may be of an older version."""
    inspector, prefix = inspect(connection), prefix_of(connection)
    stored = inspector.get_table_names()
    for name in sorted(BoardModel.metadata.tables):
        full = f"{prefix}{name}"
        # Nobody holds a lease of a board elsewhere, and its time is that of another clock.
        if full in stored and name != SNAPSHOT_LEASES.name:
            key = inspector.get_pk_constraint(full)["constrained_columns"]
            columns = [Column(column["name"], column["type"]) for column in inspector.get_columns(full)]
            # In an export a board's tables have their plain names, whatever the board is called.
            yield Table(name, MetaData(), *columns, PrimaryKeyConstraint(*key))


def _portable(table: Table, row: Any) -> Iterator[Any]:
    """Yield the fields of a row; who leads where it comes from leads nothing elsewhere."""
    for column, field in zip(table.columns, row, strict=True):
        yield None if (table.name, column.name) == (BOARD.name, "leader") else field


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadExport(f"Line {number} is no JSON: {error}.") from error
