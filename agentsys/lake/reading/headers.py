"""Names of columns, from header rows and from what stands below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentsys.lake.reading.layout import Block, Row, column_kind
from agentsys.lake.reading.names import foreign, identifier, unique
from agentsys.lake.reading.values import is_year


@dataclass(frozen=True, slots=True)
class ColumnName:
    """``name`` is sql-safe and unique, ``original`` as written (levels joined by a slash), ``leaf`` the lowest."""

    name: str
    original: str
    leaf: str


def name_columns(block: Block) -> tuple[list[int], list[ColumnName], str]:
    """Return the positions of the columns that are used, their names, and a remark on what was mended (or "").

    Columns with neither heading nor values are left out.
    """
    width = len(block.body[0])
    levels = [_fill_groups(row, block.header[-1]) for row in block.header[:-1]] + block.header[-1:]
    used = [
        index
        for index in range(width)
        if any(row[index] for row in block.header) or any(row[index] for row in block.body)
    ]
    headings = [list(dict.fromkeys(level[index] for level in levels if level[index])) for index in used]
    if not block.header:
        headings = _headless(block, used)
    remark = _exchange_years(headings, [[row[index] for row in block.body] for index in used])
    return used, column_names(headings), remark


def column_names(headings: Sequence[Sequence[str]]) -> list[ColumnName]:
    """Return the names for one list of heading levels a column, outermost first; empty lists get ``column_N``."""
    texts = [" / ".join(levels) for levels in headings]
    names = unique(identifier(text, foreign(text) or f"column_{index}") for index, text in enumerate(texts, 1))
    return [
        ColumnName(name, text or name, identifier(levels[-1], foreign(levels[-1]) or "column") if levels else name)
        for name, text, levels in zip(names, texts, headings, strict=True)
    ]


def _fill_groups(row: Row, lowest: Row) -> Row:
    """Spread each group heading to the right, over columns whose lowest heading exists."""
    filled, current = [], ""
    for cell, low in zip(row, lowest, strict=True):
        current = cell or current
        filled.append(current if low else "")
    return filled


def _headless(block: Block, used: Sequence[int]) -> list[list[str]]:
    """Name the columns of a table without header; a text column beside its values reads as item and value."""
    kinds = [column_kind([row[index] for row in block.body]) for index in used]
    if len(used) == 1:
        return [["value"]]
    if len(used) in (2, 3) and kinds[:2] == ["text", "number"]:
        return [["item"], ["value"], ["remark"]][: len(used)]
    return [[f"column {position}"] for position in range(1, len(used) + 1)]


def _exchange_years(headings: list[list[str]], columns: Sequence[Sequence[str]]) -> str:
    """Swap two headings where ``Year`` stands over texts and its neighbour's column holds the years."""
    for index, heading in enumerate(headings):
        if not heading or heading[-1].lower() != "year" or any(map(is_year, columns[index])):
            continue
        for other in (index - 1, index + 1):
            if 0 <= other < len(columns) and columns[other] and all(is_year(cell) for cell in columns[other]):
                headings[index], headings[other] = headings[other], headings[index]
                return f"The headings {headings[other][-1]} and {headings[index][-1]} stood in each other's place."
    return ""
