"""Turns a table of texts into a typed Parquet file and profiles its columns, in DuckDB with bounded memory."""

# ruff: noqa: S608 - the SQL is made of generated column names, quoted paths and constant patterns
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import duckdb

from agentsys.lake.faults import CacheUnusableError
from agentsys.lake.profiles import NUMERIC_TYPES, SAMPLES, ColumnProfile, LakeLimits, Scalar, TableProfile
from agentsys.lake.reading.headers import ColumnName
from agentsys.lake.reading.names import unique
from agentsys.lake.reading.sources import SourceTable
from agentsys.lake.reading.values import (
    MIXED_SHARE,
    TEXT,
    Interpretation,
    as_mixed,
    code_sql,
    interpret,
    marker_sql,
    text_sql,
    timed_sql,
    typed_sql,
)

SAMPLE_CELLS: Final = 10_000
SAMPLE_VALUES: Final = 2000
SAMPLE_ROWS: Final = 200_000
COLUMNS_AT_ONCE: Final = 64
PERMUTATIONS: Final = 64
TEXT_LENGTH: Final = 80
_KEPT_TYPES: Final = ("BIGINT", "DOUBLE", "DATE", "TIMESTAMP", "VARCHAR", "BOOLEAN")
_SHORT_INTEGERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER")
_LONG_INTEGERS: Final = re.compile(r"UBIGINT|U?HUGEINT|DECIMAL\(\d+,0\)")


class Materialiser:
    """One DuckDB connection, in memory, that spills to a folder of its own and holds no more than its limit."""

    def __init__(self, limits: LakeLimits, spill: Path) -> None:
        self._connection = duckdb.connect(
            config={
                "memory_limit": f"{limits.memory_bytes // 2**20}MiB",
                "temp_directory": str(spill),
                "threads": 2,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        # A long query would draw on standard output, which belongs to data.
        self._connection.execute("SET enable_progress_bar = false")
        # Moments are kept without a zone: in that of the machine, each machine would keep others.
        self._connection.execute("SET TimeZone = 'UTC'")

    def close(self) -> None:
        self._connection.close()

    def table(self, source: SourceTable, target: Path) -> TableProfile:
        """Write ``source`` to ``target`` and profile it; the profile knows no file and no family yet.

        Raises CacheUnusableError where the disk is full, duckdb.Error where the source cannot be parsed.
        """
        try:
            rows, columns = self._write(source, target)
            notes = "\n".join(filter(None, [source.notes, self._rejected()]))
        except duckdb.IOException as error:
            if "space" in str(error).lower():
                raise CacheUnusableError(f"{target.parent} cannot be written: {error}") from error
            raise
        return TableProfile("", "", "", Path(target.name), rows, columns, source.title, notes)

    def _write(self, source: SourceTable, target: Path) -> tuple[int, tuple[ColumnProfile, ...]]:
        copy = target.with_suffix(".raw")
        raw = self._raw(source, copy)
        if source.typed:
            names, units = list(source.columns), [""] * len(source.columns)
            selected = [self._kept(f"c{index}", raw) for index in range(len(names))]
        else:
            names, units, selected = self._typed(source.columns, raw)
        safe = unique(name.name for name in names)
        body = ", ".join(f'{sql} AS "{name}"' for sql, name in zip(selected, safe, strict=True))
        self._connection.execute(
            f"COPY (SELECT {body} FROM {raw}) TO '{_quoted(target)}' (FORMAT parquet, COMPRESSION zstd)"
        )
        self._connection.execute("DROP TABLE IF EXISTS raw")
        copy.unlink(missing_ok=True)
        named = [ColumnName(name, item.original, item.leaf) for name, item in zip(safe, names, strict=True)]
        return self._profile(target, named, units)

    def _raw(self, source: SourceTable, copy: Path) -> str:
        """Make the source's columns available as ``c0``, ``c1``, … and return the relation's SQL.

        Texts are stripped, and NULL when blank, once and for all: all that follows looks at them several times.
        """
        names = [f"c{index}" for index in range(len(source.columns))]
        cells = ", ".join(names if source.typed else [f"{text_sql(name)} AS {name}" for name in names])
        if not source.sql:
            import pyarrow as pa

            data = [pa.array(column, pa.string()) for column in zip(*source.rows, strict=True)]
            self._connection.register("texts", pa.table(data, names=names))
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE raw AS SELECT {cells} FROM texts")
            self._connection.unregister("texts")
            return "raw"
        selected = f"SELECT {cells} FROM ({source.sql}) AS source({', '.join(names)})"
        self._connection.execute(f"COPY ({selected}) TO '{_quoted(copy)}' (FORMAT parquet)")
        return f"read_parquet('{_quoted(copy)}')"

    def _kept(self, column: str, raw: str) -> str:
        """Keep a typed column, in the few types that plans know."""
        found = str(self._one(f"SELECT typeof({column}) FROM {raw} LIMIT 1")[0]) if self._rows(raw) else "VARCHAR"
        if found in _KEPT_TYPES:
            return column
        if found in _SHORT_INTEGERS or (_LONG_INTEGERS.fullmatch(found) and self._all_fit(column, raw)):
            return f"CAST({column} AS BIGINT)"
        if found == "FLOAT" or found.startswith("DECIMAL"):
            return f"CAST({column} AS DOUBLE)"
        # Integers too long for a number are identifiers: as floats, neighbours would become one.
        return f"CAST({column} AS {'TIMESTAMP' if found.startswith('TIMESTAMP') else 'VARCHAR'})"

    def _all_fit(self, column: str, raw: str) -> bool:
        """Whether every value of a column is a BIGINT."""
        (misfits,) = self._one(
            f"SELECT count(*) FROM {raw} WHERE {column} IS NOT NULL AND TRY_CAST({column} AS BIGINT) IS NULL"
        )
        return not misfits

    def _typed(self, columns: Sequence[ColumnName], raw: str) -> tuple[list[ColumnName], list[str], list[str]]:
        names: list[ColumnName] = []
        units: list[str] = []
        selected: list[str] = []
        for index, (column, how) in enumerate(zip(columns, self._interpret(len(columns), raw), strict=True)):
            names.append(column)
            units.append(how.unit)
            selected.append(typed_sql(f"c{index}", how))
            if how.keep_text:
                written = f"{column.original} (as written)"
                names.append(ColumnName(f"{column.name}_text", written, f"{column.leaf}_text"))
                units.append("")
                selected.append(f"c{index}")
        return names, units, selected

    def _interpret(self, columns: int, raw: str) -> list[Interpretation]:
        """Guess from samples, then hold the guesses against every row."""
        guesses = [interpret(sample) for sample in self._samples(columns, raw)]
        checked = [index for index, how in enumerate(guesses) if how is not TEXT]
        for together in _batched(checked, COLUMNS_AT_ONCE):
            counts = self._one(
                f"SELECT {', '.join(_counts_sql(f'c{index}', guesses[index]) for index in together)} FROM {raw}"
            )
            for place, index in enumerate(together):
                guesses[index] = _held(guesses[index], *counts[4 * place : 4 * place + 4])
        return guesses

    def _samples(self, columns: int, raw: str) -> list[list[str]]:
        """Return distinct texts of each column, from its first cells that are filled."""
        samples: list[list[str]] = [[] for _ in range(columns)]
        for together in _batched(range(columns), _columns_at_once(self._rows(raw))):
            cells = _cells_sql(together, [f"c{index}" for index in together], raw)
            for index, value in self._all(f"SELECT DISTINCT i, v FROM ({cells} LIMIT {SAMPLE_CELLS})"):
                samples[index].append(value)
        return samples

    def _profile(
        self, target: Path, names: Sequence[ColumnName], units: Sequence[str]
    ) -> tuple[int, tuple[ColumnProfile, ...]]:
        relation = f"read_parquet('{_quoted(target)}')"
        rows = self._rows(relation)
        counted = "count(DISTINCT {0})" if rows <= SAMPLE_ROWS else "approx_count_distinct({0})"
        aggregates = f"count({{0}}), {counted}, min({{0}}), max({{0}}), any_value(typeof({{0}}))"
        figures = self._one(
            f"SELECT {', '.join(aggregates.format(_identifier(c.name)) for c in names)} FROM {relation}"
        )
        sampled = relation if rows <= SAMPLE_ROWS else f"(FROM {relation} LIMIT {SAMPLE_ROWS})"
        frequent = self._frequent([column.name for column in names], sampled, rows)
        profiles = []
        for index, (column, unit, values) in enumerate(zip(names, units, frequent, strict=True)):
            filled, distinct, low, high, type_ = figures[5 * index : 5 * index + 5]
            profiles.append(
                ColumnProfile(
                    column.name,
                    column.original,
                    column.leaf,
                    str(type_ or "VARCHAR"),
                    1 - filled / rows if rows else 1.0,
                    int(distinct),
                    _scalar(low),
                    _scalar(high),
                    tuple(value[:TEXT_LENGTH] for value, _ in values[:SAMPLES]),
                    unit,
                    _signature([hashed for _, hashed in values]),
                    tuple(value[:TEXT_LENGTH] for value, _ in values) if type_ == "VARCHAR" else (),
                )
            )
        return rows, tuple(profiles)

    def _frequent(self, columns: Sequence[str], relation: str, rows: int) -> list[list[tuple[str, int]]]:
        """Return each column's most frequent values as texts, with their hashes."""
        frequent: list[list[tuple[str, int]]] = [[] for _ in columns]
        for together in _batched(range(len(columns)), _columns_at_once(rows)):
            texts = [f"CAST({_identifier(columns[index])} AS VARCHAR)" for index in together]
            limit = SAMPLE_VALUES if len(together) == 1 else SAMPLE_CELLS
            for index, value, hashed in self._all(
                f"SELECT i, v, hash(v) FROM ({_cells_sql(together, texts, relation)}) "
                f"GROUP BY i, v ORDER BY i, count(*) DESC, v LIMIT {limit}"
            ):
                if len(frequent[index]) < SAMPLE_VALUES:
                    frequent[index].append((value, hashed))
        return frequent

    def _rejected(self) -> str:
        """Say which lines DuckDB left out of a streamed file, and forget them."""
        if not self._one("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'")[0]:
            return ""
        lines, first = self._one("SELECT count(DISTINCT line), min(line) FROM reject_errors")
        self._connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
        return f"{lines} or more lines could not be read, the first is line {first}." if lines else ""

    def _rows(self, raw: str) -> int:
        return int(self._one(f"SELECT count(*) FROM {raw}")[0])

    def _one(self, sql: str) -> tuple[Any, ...]:
        (row,) = self._all(sql)
        return row

    def _all(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()


def _columns_at_once(rows: int) -> int:
    """Return how many columns of a table one query may look at: a query costs as much as some thousand cells.

    Where it is more than one column, all their cells are no more than a sample of one.
    """
    return max(1, min(COLUMNS_AT_ONCE, SAMPLE_CELLS // max(rows, 1)))


def _batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _cells_sql(indices: Sequence[int], texts: Sequence[str], relation: str) -> str:
    """Return SQL for the filled cells of some columns: the column's index ``i`` and the text ``v``."""
    numbers = ", ".join(map(str, indices))
    cells = f"SELECT unnest([{numbers}]) AS i, unnest([{', '.join(texts)}]) AS v FROM {relation}"
    return f"SELECT i, v FROM ({cells}) WHERE v IS NOT NULL"


def _counts_sql(column: str, how: Interpretation) -> str:
    """Return SQL that counts a column's texts, those that do not fit ``how``, codes, and dates with a time of day."""
    misfit = f"{typed_sql(column, how)} IS NULL AND NOT {marker_sql(column)}"
    special = (misfit, code_sql(column), timed_sql(column, how))
    return ", ".join([f"count({column})", *(f"count(CASE WHEN {which} THEN {column} END)" for which in special)])


def _held(guess: Interpretation, filled: int, misfits: int, codes: int, timed: int) -> Interpretation:
    """Return what a guess comes to, by the counts over every row."""
    if codes and guess.form in ("plain", "formatted"):
        return TEXT
    if not misfits or guess.keep_text:
        return replace(guess, type="TIMESTAMP") if timed else guess
    if guess.type not in NUMERIC_TYPES or misfits > (1 - MIXED_SHARE) * filled:
        return TEXT
    return as_mixed(guess)


def _signature(hashes: Sequence[int]) -> tuple[int, ...]:
    """Return a MinHash over values that DuckDB has hashed already."""
    if not hashes:
        return ()
    from datasketch import MinHash

    sketch = MinHash(PERMUTATIONS, hashfunc=lambda value: value & 0xFFFFFFFF)
    sketch.update_batch(hashes)
    return tuple(int(value) for value in sketch.hashvalues)


def _scalar(value: Any) -> Scalar:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:TEXT_LENGTH]


def _identifier(name: str) -> str:
    return f'"{name}"'


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
