"""CSV, TSV and other delimited text: the delimiter is judged from the content, large files are streamed."""

# ruff: noqa: S608 - the SQL is made of numbers, generated names and quoted paths
from __future__ import annotations

import csv
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from agentsys.lake.faults import FileCorruptError, FileEncodingUnknownError, FileWithoutTableError
from agentsys.lake.profiles import LakeLimits
from agentsys.lake.reading.encodings import text_encoding
from agentsys.lake.reading.headers import name_columns
from agentsys.lake.reading.layout import find_tables
from agentsys.lake.reading.sources import SECTION, SourceTable, plain_path, tables_of_sheet

DELIMITERS: Final = (",", "\t", ";", "|")
NO_DELIMITER: Final = "\x1f"
HEAD_LINES: Final = 400
PROSE_LENGTH: Final = 200
LIST_EXTENSIONS: Final = frozenset({".txt", ""})


def read_delimited(path: Path, limits: LakeLimits, scratch: Path) -> list[SourceTable]:
    """Return the tables of a delimited text file; from ``streamed_from_bytes`` on, one streamed table.

    ``scratch`` is a folder for a UTF-8 copy where the encoding cannot be streamed directly.
    """
    encoding = text_encoding(path)
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding=encoding, newline="") as stream:
            head = list(itertools.islice(stream, HEAD_LINES))
        delimiter = sniff_delimiter(head)
        if delimiter is None:
            return _single_column(path, head, encoding)
        if path.stat().st_size >= limits.streamed_from_bytes:
            return [_streamed(path, encoding, delimiter, head, scratch)]
        rows = _records(path, encoding, delimiter)
    except UnicodeDecodeError as error:
        raise FileEncodingUnknownError(f"{path.name} looked like {encoding} but breaks it: {error}") from error
    except csv.Error as error:
        raise FileCorruptError(f"{path.name} is not delimited text: {error}") from error
    return tables_of_sheet(rows)


def sniff_delimiter(lines: Sequence[str]) -> str | None:
    """Return the delimiter that splits most lines into the same number of cells; None for a single column."""
    best, best_score = None, 0.0
    shares: dict[str, float] = {}
    # A comma that stands in no heading is that of decimals, where what stands there splits all other lines as well.
    headings = next((line for line in lines if any(delimiter in line for delimiter in DELIMITERS)), "")
    for delimiter in DELIMITERS:
        counts = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        several = {cells: rows for cells, rows in counts.items() if cells > 1}
        if not several:
            continue
        cells, agreeing = max(several.items(), key=lambda item: (item[1], item[0]))
        share = shares[delimiter] = agreeing / sum(counts.values())
        score = share * min(cells, 4) ** 0.25
        decimals = best == "," and "," not in headings and delimiter in headings and share >= shares[","]
        if share >= 0.3 and (decimals or score > best_score + 1e-9):
            best, best_score = delimiter, score
    return best


def _single_column(path: Path, head: Sequence[str], encoding: str) -> list[SourceTable]:
    lines = [line.strip() for line in head]
    if max(map(len, lines), default=0) > PROSE_LENGTH or sum(map(bool, lines)) < 2:
        raise FileWithoutTableError(f"{path.name} has no delimiter that splits its lines into columns.")
    if path.suffix.lower() not in LIST_EXTENSIONS:
        return tables_of_sheet(_records(path, encoding, NO_DELIMITER))
    rows = [[line] for line in path.read_text(encoding=encoding).splitlines()]
    return tables_of_sheet(rows, headless_list=True)


def _streamed(path: Path, encoding: str, delimiter: str, head: Sequence[str], scratch: Path) -> SourceTable:
    """Judge the layout by the head and stream everything below the last header found there."""
    reader = csv.reader(head[:-1] if len(head) == HEAD_LINES else head, delimiter=delimiter, skipinitialspace=True)
    numbered = list(_with_line_numbers(reader))
    blocks = find_tables([row for _, row in numbered])
    if not blocks:
        raise FileWithoutTableError(f"{path.name} has no table in its first {HEAD_LINES} lines.")
    block = blocks[-1]
    used, names, remark = name_columns(block)
    if above := sum(len(earlier.body) for earlier in blocks[:-1]):
        remark = f"{above} rows above its headings are of another table, and left out. {remark}".rstrip()
    skipped = numbered[block.first_row][0]
    source = plain_path(path, scratch) if encoding in ("utf-8", "utf-8-sig") else _as_utf8(path, encoding, scratch)
    width = len(block.body[0])
    columns = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(width))
    quoted = str(source).replace("'", "''")
    sql = (
        f"SELECT {', '.join(f'c{index}' for index in used)} FROM read_csv('{quoted}', delim='{delimiter}', quote='\"', "
        f"escape='\"', header=false, skip={skipped}, columns={{{columns}}}, auto_detect=false, null_padding=true, "
        # Several threads would not take line breaks within quotation marks.
        f"parallel=false, strict_mode=false, ignore_errors=true, store_rejects=true, rejects_limit=1000)"
    )
    return SourceTable(names, SECTION.join(block.title), remark, sql=sql)


def _records(path: Path, encoding: str, delimiter: str) -> list[list[str]]:
    """Return all records. Raises FileCorruptError where a quotation mark that nothing closes has swallowed lines."""
    with path.open(encoding=encoding, newline="") as stream:
        numbered = list(_with_line_numbers(csv.reader(stream, delimiter=delimiter, skipinitialspace=True)))
    rows = [row for _, row in numbered]
    if rows and any("\n" in cell for cell in rows[-1]):
        first = numbered[-1][0]
        with path.open(encoding=encoding, newline="") as stream:
            last = csv.reader(itertools.islice(stream, first, None), delimiter=delimiter, strict=True)
            try:
                next(last)
            except csv.Error as error:
                if "end of data" in str(error):
                    what = f"{path.name} opens a quotation mark in the record at line {first + 1} and never closes it"
                    raise FileCorruptError(f"{what}: all lines after it are one cell.") from error
    return rows


def _with_line_numbers(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Pair each record with the number of physical lines before it."""
    before = 0
    for row in reader:
        yield before, row
        before = reader.line_num  # type: ignore[attr-defined]


def _as_utf8(path: Path, encoding: str, scratch: Path) -> Path:
    copy = scratch / "utf8.csv"
    with path.open(encoding=encoding, newline="") as source, copy.open("w", encoding="utf-8", newline="") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return copy
