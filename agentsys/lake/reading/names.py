"""SQL-safe identifiers from the words people write in headers and file names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Final

MAX_LENGTH: Final = 60
_SYMBOLS: Final = {
    "#": " number ",
    "%": " percent ",
    "$": " dollar ",
    "€": " euro ",
    "£": " pound ",
    "&": " and ",
    "+": " plus ",
}
# fmt: off
_UNPARSED: Final = frozenset((
    "alter", "between", "connect_by_root", "cube", "current_catalog", "current_date", "current_time",
    "current_timestamp", "current_user", "drop", "force", "grant", "if", "insert", "install", "localtime",
    "localtimestamp", "lock", "partitioned_by", "regexp", "revoke", "rlike", "rollback", "rollup", "session_user",
    "uncache", "values", "xor",
))
# fmt: on
"""Words that DuckDB takes as a name, while sqlglot, or DuckDB where no column has it, reads something else there."""

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def identifier(text: str, fallback: str = "column") -> str:
    """Return a lower-case snake_case identifier of at most 60 characters: starts with a letter, no SQL keyword.

    ``# of Reports`` becomes ``number_of_reports``; ``19 and Under`` becomes ``n19_and_under``.
    """
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    plain = unicodedata.normalize("NFKD", _split_camel(text).casefold()).encode("ascii", "ignore").decode()
    name = "_".join(re.findall(r"[a-z0-9]+", plain))[:MAX_LENGTH].rstrip("_")
    if not name:
        return fallback
    if name in _keywords():
        return f"{name}_"
    return f"n{name}"[:MAX_LENGTH] if name[0].isdigit() else name


def foreign(text: str) -> str:
    """Return the words of a text that has no letters of ASCII as one name in its own script, or ``""``."""
    name = "_".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text.casefold())))[:MAX_LENGTH].rstrip("_")
    return name if name.isidentifier() else ""


def unique(names: Iterable[str]) -> list[str]:
    """Return the names with ``_2``, ``_3``, … appended where one comes again."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, count = name, 1
        while candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        taken.add(candidate)
        result.append(candidate)
    return result


def words(text: str) -> list[str]:
    """Split on anything but letters and digits, and at changes of case: ``NewYork_2024`` gives three words."""
    return re.findall(r"[^\W_]+", _split_camel(text))


def _split_camel(text: str) -> str:
    """Part ``NewYork`` but not the ``McCormack`` of ``McCormack Bathhouse``: words with spaces are written as meant."""
    return text if " " in text.strip() else _CAMEL.sub(" ", text)


@cache
def _keywords() -> frozenset[str]:
    """Return the words that cannot be an unquoted name of a column or a table."""
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')"
        ).fetchall()
    return _UNPARSED.union(word for (word,) in found)
