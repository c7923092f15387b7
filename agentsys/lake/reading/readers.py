"""Chooses the reader of a file by its first bytes, then by its extension."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentsys.lake.faults import (
    FileCorruptError,
    FileEmptyError,
    FileFormatUnknownError,
    FileTooLargeError,
    FileWithoutTableError,
)
from agentsys.lake.profiles import LakeLimits
from agentsys.lake.reading.compression import unpacked
from agentsys.lake.reading.delimited import read_delimited
from agentsys.lake.reading.encodings import text_encoding
from agentsys.lake.reading.headers import column_names
from agentsys.lake.reading.html_tables import read_html
from agentsys.lake.reading.json_tables import read_json
from agentsys.lake.reading.sources import SourceTable, plain_path
from agentsys.lake.reading.workbook import read_workbook

DELIMITED: Final = frozenset({".csv", ".tsv", ".tab", ".psv", ".txt", ".dat", ".data", ""})
JSON: Final = frozenset({".json", ".jsonl", ".ndjson", ".geojson"})
HTML: Final = frozenset({".html", ".htm", ".xhtml"})
BINARY: Final = {".parquet": b"PAR1", ".xlsx": b"PK\x03\x04", ".xlsm": b"PK\x03\x04"}


def read_tables(path: Path, limits: LakeLimits, scratch: Path) -> list[SourceTable]:
    """Return the tables of one file; raises a FileFaultError that says why there are none, or OSError.

    ``scratch`` is a folder for what has to be unpacked or decoded first.
    """
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise FileTooLargeError(f"{path.name} has {size} bytes, above the limit of {limits.file_bytes}.")
    path = unpacked(path, limits, scratch)
    if path.stat().st_size == 0:
        raise FileEmptyError(f"{path.name} has no content.")
    with path.open("rb") as stream:
        magic = stream.read(8)
    extension = path.suffix.lower()
    if magic.startswith(b"PAR1"):
        return _read_parquet(path, scratch)
    if magic.startswith(b"PK\x03\x04"):
        return read_workbook(path, limits)
    if extension in BINARY:
        raise FileCorruptError(f"{path.name} does not begin like a {extension} file.")
    tables = _read_text(path, extension, limits, scratch)
    if not tables:
        raise FileWithoutTableError(f"{path.name} holds text but no rows of a table.")
    return tables


def _read_text(path: Path, extension: str, limits: LakeLimits, scratch: Path) -> list[SourceTable]:
    encoding = text_encoding(path)
    if extension in HTML:
        return read_html(path, limits)
    if extension in JSON:
        return read_json(path, limits)
    if extension not in DELIMITED:
        raise FileFormatUnknownError(f"{path.name}: files of type {extension} are not read as data.")
    with path.open(encoding=encoding, errors="replace") as stream:
        if not stream.read(4096).strip():
            raise FileEmptyError(f"{path.name} holds only white space.")
    return read_delimited(path, limits, scratch)


def _read_parquet(path: Path, scratch: Path) -> list[SourceTable]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        schema = pa.parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise FileCorruptError(f"{path.name} is no readable Parquet file: {error}") from error
    quoted = str(plain_path(path, scratch)).replace("'", "''")
    sql = f"SELECT * FROM read_parquet('{quoted}')"  # noqa: S608 - the path is quoted above
    return [SourceTable(column_names([[name] for name in schema.names]), sql=sql, typed=True)]
