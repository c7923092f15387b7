"""JSON: lists of records, lists of lists, columns, JSON lines, and records nested somewhere inside."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentsys.lake.faults import FileCorruptError, FileTooLargeError, FileWithoutTableError
from agentsys.lake.profiles import LakeLimits
from agentsys.lake.reading.encodings import text_encoding
from agentsys.lake.reading.headers import column_names
from agentsys.lake.reading.sources import SourceTable, check_cells, tables_of_sheet

MAX_DEPTH: Final = 6
LINES: Final = frozenset({".jsonl", ".ndjson"})
"""Extensions of files with one document a line, of which there may be but one."""


def read_json(path: Path, limits: LakeLimits) -> list[SourceTable]:
    """Return the tables of a JSON or JSON lines file; nested objects become columns joined by their keys.

    A file above ``in_memory_bytes`` is refused with FileTooLargeError.
    """
    if path.stat().st_size > limits.in_memory_bytes:
        raise FileTooLargeError(f"{path.name} has {path.stat().st_size} bytes, above {limits.in_memory_bytes}.")
    text = path.read_text(encoding=text_encoding(path))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        document = _lines(path.name, text, error)
    if isinstance(document, dict) and path.suffix.lower() in LINES and "\n" not in text.strip():
        document = [document]
    tables = [table for title, records in _collections(document, ()) for table in _tables(title, records)]
    if not tables:
        raise FileWithoutTableError(f"{path.name} is JSON without a list of records or of columns.")
    return tables


def _lines(name: str, text: str, fault: Exception) -> list[Any]:
    # Not splitlines: within texts JSON allows characters that end lines elsewhere, such as U+2028.
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            documents += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            if not documents:
                raise FileCorruptError(f"{name} is neither JSON nor JSON lines: {fault}") from fault
            raise FileCorruptError(f"{name} holds JSON lines, but line {number} is no JSON: {error}") from error
    return documents


def _collections(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield ``(title, items)`` of every list of records, list of lists or set of columns below ``node``."""
    if isinstance(node, list):
        yield " ".join(path), node
    elif isinstance(node, Mapping) and len(path) < MAX_DEPTH:
        if columns := _as_columns(node):
            yield " ".join(path), columns
            return
        for key, value in node.items():
            if isinstance(value, Mapping) or (isinstance(value, list) and _holds_rows(value)):
                yield from _collections(value, (*path, str(key)))


def _holds_rows(items: Sequence[Any]) -> bool:
    return any(isinstance(item, dict | list) for item in items)


def _as_columns(node: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Read ``{"a": [1, 2], "b": [3, 4]}`` or ``{"a": {"0": 1}, "b": {"0": 3}}`` as records."""
    values = list(node.values())
    if len(values) < 2:
        return None
    if all(isinstance(value, list) and not _holds_rows(value) for value in values):
        if len({len(value) for value in values}) == 1 and values[0]:
            return [dict(zip(node, row, strict=True)) for row in zip(*values, strict=True)]
    elif all(isinstance(value, dict) for value in values):
        keys = list(values[0])
        scalars = all(not isinstance(item, dict | list) for value in values for item in value.values())
        if keys and scalars and all(list(value) == keys for value in values):
            return _indexed(node, keys)
    return None


def _indexed(node: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Orient an object of objects: numbered inner keys are rows (pandas ``columns``), named ones are columns."""
    if not all(key.isdigit() for key in keys):
        heading = _unlike("key", keys)
        return [{heading: name, **inner} for name, inner in node.items()]
    rows = {key: {column: node[column][key] for column in node} for key in keys}
    if keys == [str(number) for number in range(len(keys))]:
        # The numbers of the rows, and no more; years, say, are part of what the rows say.
        return list(rows.values())
    heading = _unlike("key", node)
    return [{heading: key, **row} for key, row in rows.items()]


def _unlike(heading: str, taken: Collection[str]) -> str:
    return _unlike(f"outer {heading}", taken) if heading in taken else heading


def _tables(title: str, items: Sequence[Any]) -> list[SourceTable]:
    records = [_flatten(item) for item in items if isinstance(item, dict)]
    if records:
        keys = list(dict.fromkeys(key for record in records for key in record))
        if not keys:
            return []
        check_cells(len(records) * len(keys))
        rows = [[record.get(key, "") for key in keys] for record in records]
        left = len(items) - len(records)
        notes = f"{left} items beside the records are no records, and left out." if left else ""
        return [SourceTable(column_names([list(key) for key in keys]), title, notes, rows)]
    lists = [[_text(cell) for cell in item] for item in items if isinstance(item, list)]
    if not lists and len(items) > 1:
        return [SourceTable(column_names([["value"]]), title, rows=[[_text(item)] for item in items])]
    return tables_of_sheet(lists, title)


def _flatten(record: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    flat: dict[tuple[str, ...], str] = {}
    for key, value in record.items():
        if isinstance(value, dict) and value and len(path) < MAX_DEPTH:
            flat.update(_flatten(value, (*path, str(key))))
        else:
            flat[(*path, str(key))] = _text(value)
    return flat


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
