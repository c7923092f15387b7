"""The process that runs a query plan: one request on standard input, one answer on standard output.

A program of its own, run by its path behind the walls of :mod:`agentsys.containment`: it imports DuckDB and the
standard library alone, so that little must be readable there, and it starts soon.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb

_ADDRESS_SPACE_SLACK: Final = 512 * 2**20
_ZONED: Final = "TIMESTAMP WITH TIME ZONE"


def serve() -> None:
    """Answer the one request on standard input."""
    request = json.load(sys.stdin)
    try:
        answer = json.dumps(_answer(request), allow_nan=False)
        if len(answer) > request["limits"]["result_bytes"]:
            answer = json.dumps({"error": "size", "message": ""})
    except duckdb.InterruptException:
        answer = json.dumps({"error": "timeout", "message": ""})
    except (duckdb.OutOfMemoryException, MemoryError):
        answer = json.dumps({"error": "memory", "message": ""})
    except duckdb.Error as error:
        answer = json.dumps({"error": "failed", "message": str(error).splitlines()[0].rstrip(".")})
    sys.stdout.write(answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    limits = request["limits"]
    connection = _locked_connection(request["views"], limits)
    _bound_address_space(limits["memory_bytes"])
    started = time.monotonic()
    with _interrupting(connection, limits["seconds"]):
        *earlier, (_, last) = request["steps"]
        for name, sql in earlier:
            connection.execute(f"CREATE TEMP TABLE {_quoted(name)} AS {sql}")
        cursor = connection.execute(last)
        described = cursor.description or []
        if any(_ZONED in str(column[1]) for column in described):
            cursor = connection.execute(_without_zones(last, described))
        rows = cursor.fetchmany(limits["rows"] + 1)
    seconds = time.monotonic() - started
    with _interrupting(connection, limits["seconds"]):
        files = {family: _files(connection, probes) for family, probes in request["probes"].items()}
    return {
        "columns": [column[0] for column in described],
        "types": [str(column[1]) for column in described],
        "rows": [[_json_safe(value) for value in row] for row in rows[: limits["rows"]]],
        "truncated": len(rows) > limits["rows"],
        "files": files,
        "seconds": seconds,
    }


def _locked_connection(views: dict[str, list[list[Any]]], limits: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": limits["threads"],
            "memory_limit": f"{limits['memory_bytes'] // 1024}KiB",
            "temp_directory": "",
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,
        },
    )
    for family, tables in views.items():
        parts = (_scan(*table) for table in tables)
        connection.execute(f"CREATE VIEW {_quoted(family)} AS {' UNION ALL BY NAME '.join(parts)}")
    paths = ", ".join(_literal(path) for tables in views.values() for path, _, _ in tables)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    # Answers must not depend on where the machine stands.
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


def _without_zones(sql: str, described: list[Any]) -> str:
    """Return a statement with its moments as they are in UTC: the Python client needs a library for those with a zone.

    ``described``: its columns, with their types second.
    """
    names = [f"c{position}" for position in range(len(described))]
    plain = (
        f"CAST({name} AS {str(column[1]).replace(_ZONED, 'TIMESTAMP')})" if _ZONED in str(column[1]) else name
        for name, column in zip(names, described, strict=True)
    )
    bare = sql.rstrip().rstrip(";")
    return f"SELECT {', '.join(plain)} FROM (\n{bare}\n) AS result({', '.join(names)})"  # noqa: S608 - checked before


def _scan(parquet: str, file: str, casts: Mapping[str, str]) -> str:
    """Return SQL for the rows of a file; ``casts`` are types, by column, that it holds otherwise."""
    typed = ", ".join(f"CAST({_quoted(name)} AS {type_}) AS {_quoted(name)}" for name, type_ in casts.items())
    columns = f"* REPLACE ({typed})" if typed else "*"
    # All values are quoted literals or types of profiles, and a view cannot take parameters.
    return f"SELECT {columns}, {_literal(file)} AS _file FROM read_parquet({_literal(parquet)})"  # noqa: S608


def _bound_address_space(memory_bytes: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bound = used + memory_bytes + _ADDRESS_SPACE_SLACK
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


@contextmanager
def _interrupting(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _files(connection: duckdb.DuckDBPyConnection, probes: list[str] | None) -> list[str] | None:
    if probes is None:
        return None
    try:
        return sorted(
            {row[0] for probe in probes for row in connection.execute(probe).fetchall() if row[0] is not None}
        )
    except duckdb.Error:
        return None


def _json_safe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | decimal.Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    return value.hex() if isinstance(value, bytes) else str(value)


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    serve()
