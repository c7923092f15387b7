"""Runs query plans in DuckDB, in a process of its own with nothing to reach but the granted tables.

The walls, outermost first: the plan's allowlist (``agentsys.lake.queries.allowlist``); a fresh process, contained
as far as this machine can (:mod:`agentsys.containment`), with an address-space limit; DuckDB with external access off,
only the granted Parquet files as allowed paths, no extensions, no spilling to disk, its own memory limit,
locked settings.
DuckDB's own limits do not bound scalar functions that build long strings, which is why the process has one too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import duckdb

from agentsys.containment.limits import Grants, Limits
from agentsys.containment.process import run_contained
from agentsys.errors import LakeError
from agentsys.lake.profiles import Family, TableProfile
from agentsys.lake.queries import worker
from agentsys.lake.queries.allowlist import near_names
from agentsys.lake.queries.plan import Plan
from agentsys.lake.queries.provenance import StatementTrace, trace

_WORKER: Final = (str(Path(worker.__file__)),)
_START_SECONDS: Final = 10.0
_OPEN_FILES: Final = 1024
_ERROR_BYTES: Final = 64 * 2**10


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

    ``derivation``: per name of a result column the ``family.column`` names that its values are computed from.
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
        plan = Plan.of(plan) if isinstance(plan, str) else plan
        plan.validate(self.grants)
        traces = trace(plan, self.grants)
        families = [
            grant for grant in self.grants if any(grant.name.lower() in found.tables for found in traces.values())
        ]
        answer = self._ask_worker(
            {
                "views": {
                    family.name: [[str(t.parquet), _base_name(t.file), _casts(family, t)] for t in family.tables]
                    for family in families
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
        # Interpreter flags: no site, no script folder; what is imported is under PYTHONPATH.
        command = [sys.executable, "-S", "-P", *_WORKER]
        done = run_contained(
            command,
            input=json.dumps(request).encode(),
            limits=self._process_limits(sum(map(len, request["views"].values()))),
            grants=_grants(request["views"]),
            # DuckDB's own locks hold where this machine has fewer walls.
            require=(),
        )
        if done.stopped in ("time", "computing"):
            raise self._error("timeout", "")
        if done.stopped == "output":
            raise self._error("size", "")
        if done.status != 0 or not done.output:
            detail = done.errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise SandboxError(f"The query process ended with status {done.status} ({detail[0]}).")
        answer: dict[str, Any] = json.loads(done.output)
        return answer

    def _process_limits(self, tables: int) -> Limits:
        patience = 2 * self.limits.seconds + _START_SECONDS
        return Limits(
            seconds=patience,
            cpu_seconds=patience * self.limits.threads,
            memory_bytes=None,  # the worker bounds itself, from what it has when it begins
            open_files=_OPEN_FILES + 2 * tables,
            output_bytes=self.limits.result_bytes + _ERROR_BYTES,
        )

    def _error(self, kind: str, message: str) -> LakeError:
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


def _grants(views: Mapping[str, list[list[Any]]]) -> Grants:
    """Return what the worker may read: the granted tables, and the code that it runs."""
    tables = [Path(parquet) for tables in views.values() for parquet, _, _ in tables]
    packages = Path(duckdb.__file__).parent.parent
    return Grants((*tables, packages, Path(worker.__file__)), environment={"PYTHONPATH": str(packages)})


def _casts(family: Family, table: TableProfile) -> dict[str, str]:
    """Return the types of the family's columns that a table of it holds as another type.

    A column without a value counts as text in its file, which would make texts of the other files' numbers.
    """
    types = {column.name: column.type for column in family.columns}
    return {column.name: types[column.name] for column in table.columns if column.type != types[column.name]}


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
    found: dict[str, set[str]] = {column: set() for column in columns}
    for column, origin in zip(columns, origins, strict=True):
        found[column] |= origin
    return {column: tuple(sorted(origin)) for column, origin in found.items()}
