"""A compact description of families for a model's prompt, the parts that matter to the question first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from agentsys.lake.profiles import ColumnProfile, Family

_SAMPLES: Final = 3
_SAMPLE_CHARACTERS: Final = 32


def relevant_columns(family: Family, question: str | None) -> list[ColumnProfile]:
    """Return the family's columns, those first whose name or values share most words with the question."""
    words = _words(question or "")

    def overlap(column: ColumnProfile) -> int:
        named = _words(f"{column.name} {column.original}") & words
        valued = {word for text in (*column.samples, *column.terms) for word in _words(text)} & words
        return -(3 * len(named) + min(2, len(valued)))

    return sorted(family.columns, key=overlap)


def schema_text(families: Sequence[Family], *, question: str | None = None, budget: int = 3000) -> str:
    """Describe families in the order given, within ``budget`` characters.

    Where the budget is short, sample values go first, then the columns least related to the question, then whole
    families from the end; what was left out is said.
    """
    for samples in range(_SAMPLES, -1, -1):
        text = "\n\n".join(_described(family, relevant_columns(family, question), samples) for family in families)
        if len(text) <= budget:
            return text
    return _fitted(families, question, budget)


def _fitted(families: Sequence[Family], question: str | None, budget: int) -> str:
    shown: list[str] = []
    left = budget
    for position, family in enumerate(families):
        share = left // (len(families) - position)
        columns = relevant_columns(family, question)
        while columns and len(_described(family, columns, 0)) > share:
            columns = columns[:-1]
        if columns:
            shown.append(_described(family, columns, 0))
            left -= len(shown[-1]) + 2
    if len(shown) < len(families):
        note = f"({len(families) - len(shown)} more tables left out)"
        shown = [*shown, note] if left >= len(note) else shown
    return "\n\n".join(shown)


def _described(family: Family, columns: Sequence[ColumnProfile], samples: int) -> str:
    files = family.files
    origin = files[0].rpartition("/")[2] if len(files) == 1 else f"{len(files)} files"
    rows = sum(table.rows for table in family.tables)
    lines = [f"TABLE {family.name}  -- {family.description} ({origin}, {rows} rows)"]
    lines += [_column_line(column, samples) for column in columns]
    left_out = len(family.columns) - len(columns)
    return "\n".join([*lines, f"  -- {left_out} more columns"] if left_out else lines)


def _column_line(column: ColumnProfile, samples: int) -> str:
    line = f"  {column.name} {column.type}{f' ({column.unit})' if column.unit else ''}"
    values = [_cut(value) for value in column.samples[:samples]]
    return f"{line}  -- e.g. {', '.join(values)}" if values else line


def _cut(value: str) -> str:
    flat = " ".join(value.split())
    return flat if len(flat) <= _SAMPLE_CHARACTERS else flat[: _SAMPLE_CHARACTERS - 1] + "…"


def _words(text: str) -> set[str]:
    # A trailing s is dropped so that "samples" in a question meets the column "sample".
    return {word.removesuffix("s") for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 1}
