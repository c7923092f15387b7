"""Runs query plans in DuckDB, in a process of its own with nothing to reach but the granted tables.

The walls, outermost first: the plan's allowlist (``agentsys.lake.queries.allowlist``); a fresh process with an empty
environment, an address-space limit and a deadline after which it is killed; DuckDB with external access off, only the
granted Parquet files as allowed paths, no extensions, no spilling to disk, its own memory limit and locked settings.
DuckDB's own limits do not bound scalar functions that build long strings, which is why the process has one too.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import duckdb

from agentsys.errors import LakeError

if TYPE_CHECKING:
    # The worker process imports this module: sqlglot and the rest of the planning side would triple its start.
    from agentsys.lake.profiles import Family
    from agentsys.lake.queries.plan import Plan
    from agentsys.lake.queries.provenance import StatementTrace

_WORKER: Final = "from agentsys.lake.queries.sandbox import serve; serve()"
_ADDRESS_SPACE_SLACK: Final = 512 * 2**20
_START_SECONDS: Final = 10.0


class UnknownColumnError(LakeError):
    """A statement names a column that its tables do not have."""

    code = "AGS-0543"


class QueryTimeoutError(LakeError):
    """A plan ran longer than its time limit."""

    code = "AGS-0544"
    remedy = "Filter or aggregate earlier, avoid joins without a key, or raise the sandbox's time limit."


class QueryMemoryError(LakeError):
    """A plan needed more memory than its limit."""

    code = "AGS-0545"
    remedy = "Select fewer columns, aggregate before joining, or raise the sandbox's memory limit."


class QueryFailedError(LakeError):
    """DuckDB refused a statement or failed while running it: types that do not fit, a value that does not convert."""

    code = "AGS-0546"
    remedy = "Correct the statement; cast with TRY_CAST where a column holds mixed values."


class ResultTooLargeError(LakeError):
    """The result is larger than what may come back, though it has few rows."""

    code = "AGS-0547"
    remedy = "Return fewer or shorter values."


class SandboxError(LakeError):
    """The process that runs queries ended without an answer."""

    code = "AGS-0548"
    remedy = "Run the plan again; if it ends again, report the plan as a bug."


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one plan may use: ``seconds`` of running time, ``memory_bytes``, and the rows and bytes of its result."""

    seconds: float = 20.0
    memory_bytes: int = 512 * 2**20
    rows: int = 1000
    result_bytes: int = 8 * 2**20
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Source:
    """Part of the lake that a result depends on.

    ``files``: lake-relative paths whose rows passed the plan's joins and filters (all of the family's where that
    could not be found out; then ``narrowed`` is false). ``columns``: those the plan touches, filters included.
    """

    family: str
    files: tuple[str, ...]
    columns: tuple[str, ...]
    narrowed: bool


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of JSON-safe values: dates as ISO text, decimals as floats, NaN and infinities as ``None``.

    ``derivation``: per result column the ``family.column`` names its values are computed from.
    ``truncated``: whether there were more rows than the limit. ``seconds``: running time of the plan.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    sources: tuple[Source, ...]
    derivation: Mapping[str, tuple[str, ...]]
    truncated: bool
    seconds: float


class QuerySandbox:
    """Runs plans over the granted families. Blocking; safe to use from several threads."""

    def __init__(self, grants: Sequence[Family], limits: SandboxLimits | None = None) -> None:
        self.grants = tuple(grants)
        self.limits = limits or SandboxLimits()

    def run(self, plan: Plan | str) -> QueryResult:
        """Validate and run a plan, or one statement.

        Raises PlanSyntaxError, ForbiddenQueryError, UnknownTableError, UnknownColumnError, QueryTimeoutError,
        QueryMemoryError, QueryFailedError, ResultTooLargeError or SandboxError.
        """
        from agentsys.lake.queries.plan import Plan
        from agentsys.lake.queries.provenance import trace

        plan = Plan.of(plan) if isinstance(plan, str) else plan
        plan.validate(self.grants)
        traces = trace(plan, self.grants)
        families = [
            grant for grant in self.grants if any(grant.name.lower() in found.tables for found in traces.values())
        ]
        answer = self._ask_worker(
            {
                "views": {
                    family.name: [[str(t.parquet), _base_name(t.file)] for t in family.tables] for family in families
                },
                "steps": [[step.name, step.sql] for step in plan.steps if step.name.lower() in traces],
                "probes": {family.name: _probes(family.name.lower(), traces) for family in families},
                "limits": asdict(self.limits),
            }
        )
        if "error" in answer:
            raise self._error(answer["error"], answer["message"])
        return QueryResult(
            columns=tuple(answer["columns"]),
            types=tuple(answer["types"]),
            rows=tuple(tuple(row) for row in answer["rows"]),
            sources=tuple(_source(family, traces, answer["files"][family.name]) for family in families),
            derivation=_derivation(answer["columns"], traces),
            truncated=answer["truncated"],
            seconds=answer["seconds"],
        )

    def _ask_worker(self, request: dict[str, Any]) -> dict[str, Any]:
        # Interpreter flags and environment: no user site, no script folder, none of the caller's variables.
        command = [sys.executable, "-s", "-P", "-c", _WORKER]
        environment = {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
        patience = 2 * self.limits.seconds + _START_SECONDS
        try:
            done = subprocess.run(
                command, input=json.dumps(request).encode(), env=environment, capture_output=True, timeout=patience
            )
        except subprocess.TimeoutExpired as error:
            raise self._error("timeout", "") from error
        if done.returncode != 0 or not done.stdout:
            detail = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise SandboxError(f"The query process ended with status {done.returncode} ({detail[0]}).")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _error(self, kind: str, message: str) -> LakeError:
        from agentsys.lake.queries.allowlist import near_names

        if kind == "timeout":
            return QueryTimeoutError(f"The plan ran longer than {self.limits.seconds:g} s.")
        if kind == "memory":
            return QueryMemoryError(f"The plan needed more than {self.limits.memory_bytes / 2**20:.0f} MiB of memory.")
        if kind == "size":
            return ResultTooLargeError(f"The result is larger than {self.limits.result_bytes} bytes.")
        unknown = re.search(r'Referenced column "([^"]+)" not found|have a column named "([^"]+)"', message)
        if unknown is None:
            return QueryFailedError(f"DuckDB: {message}.")
        name = unknown.group(1) or unknown.group(2)
        known = [column.name for grant in self.grants for column in grant.columns]
        return UnknownColumnError(f"The column {name!r} is in none of the tables read.", remedy=near_names(name, known))


def _base_name(file: str) -> str:
    return PurePosixPath(file).name


def _probes(family: str, traces: Mapping[str, StatementTrace]) -> list[str] | None:
    found: list[str] = []
    for statement in traces.values():
        if family in statement.tables:
            probes = statement.probes[family]
            if probes is None:
                return None
            found += probes
    return found


def _source(family: Family, traces: Mapping[str, StatementTrace], names: list[str] | None) -> Source:
    prefix = f"{family.name.lower()}."
    columns = {
        name.removeprefix(prefix) for found in traces.values() for name in found.columns if name.startswith(prefix)
    }
    files = family.files if names is None else [file for file in family.files if _base_name(file) in names]
    return Source(family.name, tuple(files), tuple(sorted(columns)), narrowed=names is not None)


def _derivation(columns: Sequence[str], traces: Mapping[str, StatementTrace]) -> dict[str, tuple[str, ...]]:
    *_, last = traces.values()
    origins = last.outputs
    if origins is None or len(origins) != len(columns):
        origins = [frozenset().union(*(found.columns for found in traces.values()))] * len(columns)
    return {column: tuple(sorted(origin)) for column, origin in zip(columns, origins, strict=True)}


def serve() -> None:
    """Answer the one request on standard input (the worker's entry point; ``QuerySandbox`` starts it)."""
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


def _locked_connection(views: dict[str, list[list[str]]], limits: dict[str, Any]) -> duckdb.DuckDBPyConnection:
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
        parts = (_scan(path, file) for path, file in tables)
        connection.execute(f"CREATE VIEW {_quoted(family)} AS {' UNION ALL BY NAME '.join(parts)}")
    paths = ", ".join(_literal(path) for tables in views.values() for path, _ in tables)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _scan(parquet: str, file: str) -> str:
    # Both values are quoted literals, and a view cannot take parameters.
    return f"SELECT *, {_literal(file)} AS _file FROM read_parquet({_literal(parquet)})"  # noqa: S608


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
