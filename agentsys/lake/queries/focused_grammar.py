"""A grammar narrowed to one question, for models too small to be trusted with the whole of SQL.

Schema linking (RAT-SQL, arXiv 1911.04942, calls it that) is done without a model: the words of the question that are
values of a column become the only conditions, and the model decides what remains open, which aggregate and which
column. Every sentence is also a sentence of the query plans that the sandbox accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from agentsys.lake.profiles import NUMERIC_TYPES, ColumnProfile, Family
from agentsys.lake.queries.grammar import identifier
from agentsys.serving.requests import Constraint

MAX_CONDITIONS: Final = 3
MAX_COLUMNS: Final = 24
_STEM: Final = 4
DATE_TYPES: Final = frozenset({"DATE", "TIMESTAMP"})
_YEAR: Final = re.compile(r"\b(1[5-9]\d\d|20\d\d)\b")
_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
_GROUPING: Final = re.compile(r"\b(each|every|per|by)\b", re.IGNORECASE)
_CUES: Final = {
    "count": re.compile(r"\b(how many|number of|count)\b", re.IGNORECASE),
    "avg": re.compile(r"\b(average|mean|typical)\b", re.IGNORECASE),
    "sum": re.compile(r"\b(total|sum|altogether|overall|combined)\b", re.IGNORECASE),
    "min": re.compile(r"\b(minimum|least|fewest|lowest|smallest|shortest|youngest|cheapest|earliest)\b", re.IGNORECASE),
    "max": re.compile(
        r"\b(maximum|most|(?!least\b|fewest\b|lowest\b|smallest\b|shortest\b|youngest\b|cheapest\b|earliest\b)\w{3,}est)\b",
        re.IGNORECASE,
    ),
}
_DIRECTIONS: Final = {"max": " DESC", "min": " ASC"}


def focused_constraint(families: Sequence[Family], question: str) -> Constraint:
    """Return the constraint for one ``SELECT`` over one of ``families`` that can answer ``question``."""
    if not families:
        raise ValueError("a grammar needs at least one family")
    return Constraint("lark", f"start: {_any(_query(family, question) for family in families)}\n")


def linked_conditions(family: Family, question: str) -> list[str]:
    """Return the SQL conditions that words of the question name, alternatives of one word joined in one Lark group."""
    groups: dict[str, list[str]] = {}
    for column in family.columns:
        for value in _mentioned_values(column, question):
            groups.setdefault(value.lower(), []).append(f"{identifier(column.name)} = {_literal(value)}")
    whole = {word: found for word, found in groups.items() if not _inside_another(word, groups)}
    conditions = [_any(map(_quoted, found)) for found in whole.values()]
    return [*conditions, *_numeric_conditions(family, question)][:MAX_CONDITIONS]


def _query(family: Family, question: str) -> str:
    columns = family.columns[:MAX_COLUMNS]
    named = [column for column in columns if _is_named(column, question)]
    numeric = [column for column in columns if column.type in NUMERIC_TYPES]
    numbers = [column for column in numeric if column in named] or numeric
    operations = linked_operations(question, names_a_number=bool(numeric) and numbers != numeric)
    conditions = linked_conditions(family, question)
    source = _quoted(f" FROM {identifier(family.name)}")
    if conditions:
        source = f'{source} " WHERE " ' + ' " AND " '.join(conditions)
    aggregates = [_quoted(f"{operation}(") for operation in operations if operation != "count"]
    counted = ['"count(*)"'] if "count" in operations or not numbers else []
    measured = [f'{_any(aggregates)} {_names(numbers)} ")"'] if aggregates and numbers else []
    measure = _any([*counted, *measured])
    selections = [f"{measure} {source}"]
    directions = [_DIRECTIONS[operation] for operation in operations if operation in _DIRECTIONS]
    if directions and numbers:
        order = f'" ORDER BY " {_names(numbers)} {_any(map(_quoted, directions))} " LIMIT 1"'
        selections.append(f"{_names(named or columns)} {source} {order}")
    if _GROUPING.search(question):
        selections.append(_grouped(columns, measure, source))
    return f'"SELECT " {_any(selections)}'


def linked_operations(question: str, *, names_a_number: bool) -> list[str]:
    """Return the aggregates that words of the question name; all of them where it names none.

    "How many … in total" adds up a column that the question names, and counts rows where it names none.
    """
    found = [operation for operation, cue in _CUES.items() if cue.search(question)]
    if names_a_number and {"sum", "count"} <= set(found):
        found.remove("count")
    return found or list(_CUES)


def _grouped(columns: Sequence[ColumnProfile], measure: str, source: str) -> str:
    names = [identifier(column.name) for column in columns]
    return _any(f'{_quoted(name)} ", " {measure} {source} {_quoted(f" GROUP BY {name}")}' for name in names)


def _mentioned_values(column: ColumnProfile, question: str) -> list[str]:
    """Return the column's values that stand in the question as words.

    Case tells the town Many from "how many", so another case counts only where the question names the column and no
    value is written as it is. A single letter counts only there, too.
    """
    named = re.search(rf"\b{re.escape(column.leaf.replace('_', ' '))}\b", question, re.IGNORECASE) is not None
    values = [value for value in column.terms if value.isprintable() and (named or len(value) > 1)]
    exact = [value for value in values if _is_word(value, question)]
    return exact or [value for value in values if named and _is_word(value, question, re.IGNORECASE)]


def _is_word(value: str, question: str, flags: re.RegexFlag = re.NOFLAG) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", question, flags) is not None


def _inside_another(word: str, words: Iterable[str]) -> bool:
    return any(word != other and word in other for other in words)


def _numeric_conditions(family: Family, question: str) -> list[str]:
    years = dict.fromkeys(_YEAR.findall(question))
    conditions = [condition for year in years for condition in _year_condition(family, year)]
    for number in dict.fromkeys(_NUMBER.findall(question)):
        columns = [c for c in family.columns if c.type in NUMERIC_TYPES and _is_named(c, question)]
        if number not in years and columns:
            conditions.append(f'{_names(columns)} (" = " | " > " | " >= " | " < " | " <= ") {_quoted(number)}')
    return conditions


def _year_condition(family: Family, year: str) -> list[str]:
    found = []
    for column in family.columns:
        if column.type in DATE_TYPES:
            found.append(_quoted(f"year({identifier(column.name)}) = {year}"))
        elif column.type in NUMERIC_TYPES and "year" in column.name.lower():
            found.append(_quoted(f"{identifier(column.name)} = {year}"))
    return [_any(found)] if found else []


def _is_named(column: ColumnProfile, question: str) -> bool:
    """Whether a word of the question and a word of the column's name agree in their first letters."""
    words = {word[:_STEM] for word in re.findall(r"\w{3,}", question.lower())}
    return any(part[:_STEM] in words for part in column.name.lower().split("_") if len(part) > 2)


def _names(columns: Iterable[ColumnProfile]) -> str:
    return _any(_quoted(identifier(column.name)) for column in columns)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _any(alternatives: Iterable[str]) -> str:
    return "(" + " | ".join(dict.fromkeys(alternatives)) + ")"
