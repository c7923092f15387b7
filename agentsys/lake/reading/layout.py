"""Finds the tables in a sheet of cells: titles above, headers of one or more rows, stacked tables, notes below.

Blank rows separate segments. A segment is text (a title or a note), a new table (its first row is a header: texts over
columns of another kind), or more rows of the table before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agentsys.lake.reading.values import is_year, kind

Row = list[str]

HEADER_LEVELS: Final = 3
NOTE_LENGTH: Final = 60
_NOTE: Final = re.compile(r"(source|note|notes|\*|†|‡|\(\d\)|footnote)\b|[*†‡]", re.IGNORECASE)
_SUMMARY: Final = re.compile(
    r"(grand |sub)?-?(total|mean|average|avg|max|maximum|min|minimum|sum|median|normal)s?:?", re.IGNORECASE
)


@dataclass(slots=True)
class Block:
    """One table found in a sheet.

    ``header`` holds 0 to 3 rows of header cells (outermost first), ``body`` the rows below, ``first_row`` the index
    of the first body row in the sheet; ``title`` and ``notes`` the text lines around the table.
    """

    header: list[Row]
    body: list[Row]
    first_row: int
    title: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_tables(rows: Sequence[Sequence[str]], *, headless_list: bool = False, headings: int = 0) -> list[Block]:
    """Return the tables of a sheet, in order; an empty list where it holds only text.

    ``headless_list``: a single column of texts has no header (as in .txt files). ``headings``: so many of the first
    rows are marked as headings, which no more than settles what could be read both ways.
    """
    width = max((len(row) for row in rows), default=0)
    cells = [[cell.strip() for cell in row] + [""] * (width - len(row)) for row in _shift_short_headers(rows, width)]
    blocks: list[Block] = []
    pending: list[str] = []
    for start, segment in _segments(cells):
        lines, body, notes = _peel(segment, width)
        if not body:
            pending = _place_text(lines, blocks, pending)
            continue
        first = start + len(lines)
        depth = 0 if headless_list and width == 1 else header_depth(body, headings - first)
        _add_segment(blocks, body, first, pending + lines, depth)
        blocks[-1].notes += notes
        pending = []
    if blocks:
        blocks[-1].notes += pending
    for block in blocks:
        _move_summaries(block)
    return [block for block in blocks if block.body]


def _shift_short_headers(rows: Sequence[Sequence[str]], width: int) -> Sequence[Sequence[str]]:
    """Give a header that lacks exactly the first cell (an unnamed index column) an empty one."""
    full = sum(len(row) == width for row in rows)
    if len(rows) > 2 and len(rows[0]) == width - 1 > 0 and full == len(rows) - 1:
        return [["", *rows[0]], *rows[1:]]
    return rows


def _segments(rows: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    found: list[tuple[int, list[Row]]] = []
    previous_blank = True
    for index, row in enumerate(rows):
        blank = not any(row)
        if not blank:
            if previous_blank:
                found.append((index, []))
            found[-1][1].append(row)
        previous_blank = blank
    return found


def _is_line(row: Row) -> bool:
    return bool(row[0]) and not any(row[1:])


def _peel(segment: list[Row], width: int) -> tuple[list[str], list[Row], list[str]]:
    """Split text lines off both ends of a segment: ``(lines, rows, notes)``."""
    if width == 1:
        return [], segment, []
    first, last = 0, len(segment)
    while first < last and _is_line(segment[first]):
        first += 1
    while last > first and _is_line(segment[last - 1]) and _reads_as_note(segment[last - 1][0]):
        last -= 1
    lines = [row[0] for row in segment[:first]]
    return lines, segment[first:last], [row[0] for row in segment[last:]]


def _reads_as_note(text: str) -> bool:
    return len(text) > NOTE_LENGTH or bool(_NOTE.match(text))


def _place_text(lines: list[str], blocks: list[Block], pending: list[str]) -> list[str]:
    """Give notes to the table before them and keep the rest as titles of the table to come."""
    for line in lines:
        if blocks and (_reads_as_note(line) or line.endswith(".")):
            blocks[-1].notes.append(line)
        else:
            pending = [*pending, line]
    return pending


def _add_segment(blocks: list[Block], rows: list[Row], start: int, title: list[str], depth: int) -> None:
    if blocks and not title:
        previous = blocks[-1]
        repeated = depth and rows[:depth] == previous.header
        if repeated or (not _contrasts(rows, depth) and _continues(previous, rows)):
            previous.body += rows[depth:] if repeated else rows
            return
    if blocks and depth == len(rows):
        depth = 0
    blocks.append(Block(rows[:depth], rows[depth:], start + depth, title))


def header_depth(rows: Sequence[Row], marked: int = 0) -> int:
    """Return how many of the first rows are header: 0 where the first row already holds data.

    ``marked``: so many are said to be headings.
    """
    if not rows or not (_is_header_row(rows[0]) or _has_date_headings(rows)):
        return 0
    depth = 1
    while depth < min(HEADER_LEVELS, len(rows) - 1) and _is_group_row(rows[depth - 1], rows[depth]):
        if not (depth < marked or _has_gaps(rows[depth - 1], rows[depth]) or _contrasts(rows, depth + 1)):
            # Equal headings side by side: in a table of texts alone, what is below them is a row like all others.
            break
        depth += 1
    return depth


def _is_header_row(row: Row) -> bool:
    """Whether all cells are texts, or texts and distinct years."""
    others = [cell for cell in row if cell and kind(cell) != "text"]
    if not others:
        return True
    named = len(others) < sum(map(bool, row))
    return named and len(others) >= 2 and len(set(others)) == len(others) and all(map(is_year, others))


def _has_date_headings(rows: Sequence[Row]) -> bool:
    """Whether the first row holds texts and dates, and the columns below the dates are of another kind."""
    if {kind(cell) for cell in rows[0] if cell} != {"text", "date"} or len(rows) < 2:
        return False
    dated = [index for index, cell in enumerate(rows[0]) if kind(cell) == "date"]
    return all(column_kind([row[index] for row in rows[1:50]]) not in ("date", "empty") for index in dated)


def _is_group_row(row: Row, below: Row) -> bool:
    """Whether ``row`` holds headings over groups of the columns that ``below`` names."""
    if not _is_header_row(below):
        return False
    groups, names = _distinct_neighbours(row), _distinct_neighbours(below)
    spread = groups * 2 <= names or (groups < sum(map(bool, row)) and groups < names)
    return spread and all(low or not high for high, low in zip(row, below, strict=True))


def _has_gaps(row: Row, below: Row) -> bool:
    """Whether some cell of ``row`` is empty, or the same as the one below it, as over a column of no group."""
    return any(not high or high == low for high, low in zip(row, below, strict=True))


def _distinct_neighbours(row: Row) -> int:
    """Count the filled cells that differ from the one to their left: a heading spread over columns counts once."""
    return sum(bool(cell) and (index == 0 or cell != row[index - 1]) for index, cell in enumerate(row))


def _contrasts(rows: Sequence[Row], depth: int) -> bool:
    """Whether some column is text in the header and mostly of another kind below."""
    body = rows[depth : depth + 50]
    if not depth or not body:
        return False
    return any(
        heading and kind(heading) == "text" and column_kind([row[index] for row in body]) in ("number", "date")
        for index, heading in enumerate(rows[depth - 1])
    )


def column_kind(cells: Sequence[str]) -> str:
    """Return the kind of most non-empty cells, ``empty`` where there is none."""
    kinds = [kind(cell) for cell in cells if cell]
    return max(sorted(set(kinds)), key=kinds.count) if kinds else "empty"


def _continues(block: Block, rows: Sequence[Row]) -> bool:
    """Whether rows after a blank row look like the rows above it, column by column."""
    above, same = block.body[:200], 0
    for index in range(len(rows[0])):
        kinds = column_kind([row[index] for row in above]), column_kind([row[index] for row in rows])
        if kinds[0] == kinds[1]:
            same += kinds[0] != "empty"
        elif "empty" not in kinds or kinds[0] == "empty":
            return False
    return same > 0


def _move_summaries(block: Block) -> None:
    """Move closing rows such as ``Mean`` or ``Max`` under a column of numbers or dates to the notes."""
    end = len(block.body)
    while end > 1 and _SUMMARY.fullmatch(block.body[end - 1][0]):
        end -= 1
    if end < len(block.body) and column_kind([row[0] for row in block.body[:end]]) in ("number", "date"):
        block.notes += [" ".join(filter(None, row)) for row in block.body[end:]]
        del block.body[end:]
