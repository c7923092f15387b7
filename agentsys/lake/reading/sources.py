"""Tables as a reader found them, before their values are typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentsys.lake.faults import FileTooLargeError
from agentsys.lake.reading.headers import ColumnName, name_columns
from agentsys.lake.reading.layout import Block, find_tables

SECTION: Final = " - "
"""Parts a table's title: what contains it, the sheet's heading, the heading of its section."""

MAX_CELLS: Final = 2**25
"""Cells of a table that is held in memory: one long row makes all the others as long."""

_PATTERN: Final = frozenset("*?[=")


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One table of a file: either ``rows`` of texts in memory or ``sql`` that streams it.

    ``sql`` selects one column a name, in order: texts, or already typed values where ``typed`` is true.
    """

    columns: Sequence[ColumnName]
    title: str = ""
    notes: str = ""
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    sql: str = ""
    typed: bool = False


def plain_path(path: Path, scratch: Path) -> Path:
    """Return a path to the same file that DuckDB takes for no pattern, and for no folder of a partition."""
    if _PATTERN.isdisjoint(str(path)):
        return path
    link = scratch / f"source{path.suffix.lower()}"
    link.symlink_to(path)
    return link


def tables_of_sheet(
    rows: Sequence[Sequence[str]], title: str = "", *, headless_list: bool = False, headings: int = 0
) -> list[SourceTable]:
    """Return the tables in a sheet of texts; ``title`` is what the container calls the sheet.

    The first line of text above the first table is the title of the whole sheet. For ``headless_list`` and
    ``headings`` see :func:`~agentsys.lake.reading.layout.find_tables`.
    """
    check_cells(len(rows) * max(map(len, rows), default=0))
    blocks = find_tables(rows, headless_list=headless_list, headings=headings)
    heading = blocks[0].title[0] if blocks and blocks[0].title else ""
    return [_source(block, _join_titles(title, heading, block.title)) for block in blocks]


def check_cells(cells: int) -> None:
    """Raise FileTooLargeError for a table whose empty cells alone would fill the memory."""
    if cells > MAX_CELLS:
        raise FileTooLargeError(f"A table in it has {cells} cells or more, empty ones included, above {MAX_CELLS}.")


def _join_titles(title: str, heading: str, lines: Sequence[str]) -> str:
    return SECTION.join(dict.fromkeys(text for text in (title, heading, *lines) if text))


def _source(block: Block, title: str) -> SourceTable:
    used, names, remark = name_columns(block)
    rows = [[row[index] for index in used] for row in block.body]
    return SourceTable(names, title, "\n".join(filter(None, [*block.notes, remark])), rows)
