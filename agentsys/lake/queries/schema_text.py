"""A compact description of families for a model's prompt, the parts that matter to the question first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentsys.lake.profiles import ColumnProfile, Family
from agentsys.lake.queries.plan import FILE_COLUMN
from agentsys.lake.terms import terms

_SAMPLES: Final = 3
_SAMPLE_CHARACTERS: Final = 32
_TITLE_CHARACTERS: Final = 80
_VALUES_COMPARED: Final = 200


def relevant_columns(family: Family, question: str | None) -> list[ColumnProfile]:
    """Return the family's columns, those first whose name or values share most words with the question."""
    asked = set(terms(question or ""))

    def kinship(column: ColumnProfile) -> int:
        named = asked.intersection(terms(f"{column.name} {column.original}"))
        valued = asked.intersection(terms(" ".join((*column.samples, *column.terms[:_VALUES_COMPARED]))))
        return 3 * len(named) + min(2, len(valued))

    return sorted(family.columns, key=kinship, reverse=True) if asked else list(family.columns)


def schema_text(families: Sequence[Family], *, question: str | None = None, budget: int = 3000) -> str:
    """Describe families in the order given, within ``budget`` characters.

    Where the budget is short, sample values go first, then the columns least related to the question, then whole
    families from the end; what was left out is said.
    """
    ordered = [(family, relevant_columns(family, question)) for family in families]
    for samples in range(_SAMPLES, -1, -1):
        text = "\n\n".join(_described(family, columns, samples) for family, columns in ordered)
        if len(text) <= budget:
            return text
    return _fitted(ordered, budget)


def _fitted(families: Sequence[tuple[Family, list[ColumnProfile]]], budget: int) -> str:
    shown: list[str] = []
    left = budget
    for position, (family, columns) in enumerate(families):
        share = left // (len(families) - position)
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
    origin = _base_name(files[0]) if len(files) == 1 else f"{len(files)} files"
    rows = sum(table.rows for table in family.tables)
    title = _cut(family.description.partition(":")[0], _TITLE_CHARACTERS)
    lines = [f"TABLE {family.name}  -- {title} ({origin}, {rows} rows)"]
    lines += [_column_line(column, samples) for column in columns]
    if len(files) > 1:
        lines.append(f"  {FILE_COLUMN} VARCHAR" + (f"  -- e.g. '{_base_name(files[0])}'" if samples else ""))
    left_out = len(family.columns) - len(columns)
    return "\n".join([*lines, f"  -- {left_out} more columns"] if left_out else lines)


def _column_line(column: ColumnProfile, samples: int) -> str:
    line = f"  {column.name} {column.type}{f' ({column.unit})' if column.unit else ''}"
    quote = "'" if column.type == "VARCHAR" else ""
    values = [f"{quote}{_cut(value, _SAMPLE_CHARACTERS)}{quote}" for value in column.samples[:samples]]
    return f"{line}  -- e.g. {', '.join(values)}" if values else line


def _base_name(file: str) -> str:
    return file.rpartition("/")[2]


def _cut(value: str, limit: int) -> str:
    flat = " ".join(value.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
