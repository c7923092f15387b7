"""Tables in HTML pages, with spans spread out and the heading above each as its title."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agentsys.lake.faults import FileTooLargeError, FileWithoutTableError
from agentsys.lake.profiles import LakeLimits
from agentsys.lake.reading.encodings import text_encoding
from agentsys.lake.reading.sources import SECTION, SourceTable, tables_of_sheet

MAX_SPAN: Final = 1000
_UNREAD: Final = ("style", "script", "sup")


def read_html(path: Path, limits: LakeLimits) -> list[SourceTable]:
    """Return the data tables of a page: at least two rows and two columns, and no table inside."""
    from lxml import html

    if path.stat().st_size > limits.in_memory_bytes:
        raise FileTooLargeError(f"{path.name} has {path.stat().st_size} bytes, above {limits.in_memory_bytes}.")
    text = path.read_text(encoding=text_encoding(path), errors="replace")
    root = html.document_fromstring(text.encode(), parser=html.HTMLParser(encoding="utf-8")) if text.strip() else None
    found: list[SourceTable] = []
    for element in [] if root is None else root.iter("table"):
        rows = [] if _is_layout(element) else _rows(element)
        if len(rows) > 1 and max(map(len, rows)) > 1:
            found += tables_of_sheet(rows, _title(element, root), headings=_headings(element))
    if not found:
        raise FileWithoutTableError(f"{path.name} is a page without a table of two rows and two columns.")
    return found


def _is_layout(table: Any) -> bool:
    """Whether a table arranges other tables, or links to other pages."""
    return table.find(".//table") is not None or "navbox" in "".join(table.xpath("ancestor-or-self::*/@class"))


def _rows(table: Any) -> list[list[str]]:
    """Return the cells with row and column spans repeated."""
    rows: list[list[str]] = []
    carried: dict[int, tuple[int, str]] = {}
    for element in table.iter("tr"):
        row: list[str] = []
        for cell in element.iterchildren("td", "th"):
            _take_carried(row, carried)
            text = _text(cell)
            down = _span(cell, "rowspan")
            for _ in range(_span(cell, "colspan")):
                if down > 1:
                    carried[len(row)] = (down - 1, text)
                row.append(text)
        _take_carried(row, carried)
        rows.append(row)
    return rows


def _headings(table: Any) -> int:
    """Return how many of the first rows are marked as headings; none where no row is marked as anything else."""
    marked = [_is_heading(element) for element in table.iter("tr")]
    return 0 if all(marked) else marked.index(False)


def _is_heading(row: Any) -> bool:
    return row.getparent().tag == "thead" or {cell.tag for cell in row.iterchildren("td", "th")} == {"th"}


def _take_carried(row: list[str], carried: dict[int, tuple[int, str]]) -> None:
    while len(row) in carried:
        left, text = carried.pop(len(row))
        if left > 1:
            carried[len(row)] = (left - 1, text)
        row.append(text)


def _span(cell: Any, name: str) -> int:
    value = cell.get(name, "1")
    return min(max(int(value), 1), MAX_SPAN) if value.isdigit() else 1


def _text(element: Any) -> str:
    """Return the visible text in one line, without footnote marks."""
    for line_break in element.iter("br"):
        line_break.tail = " " + (line_break.tail or "")
    parts = [
        text
        for text in element.xpath(".//text()")
        if not any(parent.tag in _UNREAD for parent in text.getparent().iterancestors())
        and text.getparent().tag not in _UNREAD
    ]
    return " ".join("".join(parts).split())


def _title(table: Any, root: Any) -> str:
    caption = table.find("caption")
    if caption is not None:
        return _text(caption)
    headings = table.xpath("preceding::*[self::h1 or self::h2 or self::h3 or self::h4][1]")
    page = root.findtext(".//title") or ""
    return SECTION.join(filter(None, [page.strip(), _text(headings[0]) if headings else ""]))
