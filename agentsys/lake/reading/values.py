"""What a written cell means: number, date, truth value or text, in Python for a sample and in SQL for a column.

Numbers may carry thousands separators, a currency sign with K, M or B, a percent sign, accounting parentheses or a
censoring sign (``<10``); they are stored as plain numbers (``$2M`` as 2000000, ``14.98%`` as 14.98, ``<10`` as 10).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

MIXED_SHARE: Final = 0.8
"""Share of a column's values that must be numbers for the rest to move into a text column beside it."""

PLAIN: Final = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?"
INTEGER: Final = r"[-+]?\d{1,18}"
_END: Final = r"\s*\)?\s*[*†‡]?$"
NUMBER: Final = (
    r"[<>≤≥~]?=?\s*\(?\s*[-+−–]?\s*[$€£]?\s*[-+]?(\d{1,3}(,\d{3})+(\.\d*)?|\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?"
    r"\s*(%|[KMBkmb]|[Tt]housand|[Mm]illion|[Bb]illion)?\s*\)?\s*[*†‡]?"
)
MARKER: Final = r"[^\d]{1,2}|(?i:n/?a|#n/a|nan|null|nil|none|n\.a\.|missing|unknown|not available|\(null\)|-+|\.+|\*+)"
CODE: Final = r"0\d+"
DECIMAL_COMMA: Final = r"[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?"
_SCALE: Final = re.compile(rf"([KMBkmb]|[Tt]housand|[Mm]illion|[Bb]illion){_END}")
_FRACTION: Final = re.compile(r"\.|%|\d[eE]")
_CURRENCY: Final = re.compile(r"[$€£]")
DATE_FORMATS: Final = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m/%d/%y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%B %d, %Y",
    "%b %d, %Y",
    "%b %d %Y",
    "%B %d %Y",
    "%d %B %Y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
)
_DATE: Final = re.compile(
    r"(\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})|[A-Z][a-z]{2,8}\.? \d{1,2},? \d{4}"
    r"|\d{1,2}[- ][A-Z][a-z]{2,8}[- ](\d{4}|\d{2}))"
)
_TIME: Final = re.compile(r"[ T](\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)\s*([AaPp][Mm])?\s*(Z|[+-]\d{2}:?\d{2})?")
_number, _plain, _integer = re.compile(NUMBER), re.compile(PLAIN), re.compile(INTEGER)
_letters: Final = re.compile(r"(?!(?i:na)$)[^\W\d_]{1,2}")
_long_integer: Final = re.compile(r"[-+]?\d{19,}")
_marker, _code, _decimal_comma = re.compile(MARKER), re.compile(CODE), re.compile(DECIMAL_COMMA)


@dataclass(frozen=True, slots=True)
class Interpretation:
    """How a column's texts are read. ``form`` is plain, formatted, decimal comma, date, truth or text."""

    type: str
    form: str
    formats: tuple[str, ...] = ()
    unit: str = ""
    keep_text: bool = False


TEXT: Final = Interpretation("VARCHAR", "text")


def kind(cell: str) -> str:
    """Return ``empty``, ``number``, ``date`` or ``text``."""
    if not cell:
        return "empty"
    if _is_number(cell) or _decimal_comma.fullmatch(cell):
        return "number"
    return "date" if _date_shape(cell) else "text"


def is_year(cell: str) -> bool:
    """Whether the cell is a plausible calendar year, 1500 to 2199."""
    return len(cell) == 4 and cell.isascii() and cell.isdigit() and 1500 <= int(cell) < 2200


def _is_number(cell: str) -> bool:
    if not _number.fullmatch(cell):
        return False
    # A bare "5M" may be a size, a code or a distance; only money is scaled.
    return not _SCALE.search(cell) or bool(_CURRENCY.search(cell))


def _date_shape(cell: str) -> re.Match[str] | None:
    match = _DATE.match(cell)
    if match and (match.end() == len(cell) or _TIME.fullmatch(cell[match.end() :])):
        return match
    return None


def interpret(sample: Sequence[str]) -> Interpretation:
    """Judge a column by distinct non-empty values (stripped)."""
    values = [value for value in sample if not _marker.fullmatch(value)]
    if not values:
        return TEXT
    if all(value.lower() in ("true", "false") for value in values):
        return Interpretation("BOOLEAN", "truth")
    if all(_decimal_comma.fullmatch(value) for value in values) and not all(map(_is_number, values)):
        return Interpretation("DOUBLE", "decimal comma")
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) >= MIXED_SHARE * len(values):
        return _numeric(values, numbers, letters={value.lower() for value in sample if _letters.fullmatch(value)})
    if all(_date_shape(value) for value in values):
        return _temporal(values)
    return TEXT


def _numeric(values: Sequence[str], numbers: Sequence[str], letters: Collection[str]) -> Interpretation:
    """Return how numbers are read; ``letters`` are the short words beside them: one says that a value is missing."""
    if any(_code.fullmatch(value) or _long_integer.fullmatch(value) for value in numbers):
        return TEXT
    censored = any(value[0] in "<>≤≥~" for value in numbers)
    units = Counter(unit for value in numbers for unit in "%$€£" if unit in value)
    keep_text = censored or len(numbers) < len(values) or len(letters) > 1 or len(units) > 1
    if not keep_text and all(_plain.fullmatch(value) for value in numbers):
        whole = all(_integer.fullmatch(value) for value in numbers)
        return Interpretation("BIGINT" if whole else "DOUBLE", "plain")
    fractional = any(_FRACTION.search(value) for value in numbers)
    unit = units.most_common(1)[0][0] if units else ""
    return Interpretation("DOUBLE" if fractional else "BIGINT", "formatted", unit=unit, keep_text=keep_text)


def _temporal(values: Sequence[str]) -> Interpretation:
    shapes = [(value[: match.end()], value[match.end() :]) for value in values if (match := _date_shape(value))]
    formats = _date_formats({day for day, _ in shapes})
    if not formats:
        return TEXT
    timed = any(set(tail) - set(" T0:.Z") for _, tail in shapes)
    return Interpretation("TIMESTAMP" if timed else "DATE", "date", formats)


def _date_formats(days: set[str]) -> tuple[str, ...]:
    """Return the one format that reads every day, else the unambiguous formats that do together, else none."""
    for form in DATE_FORMATS:
        if all(_parses(day, form) for day in days):
            return (form,)
    clear = [form for form in DATE_FORMATS if "%b" in form.lower() or form.startswith("%Y")]
    read = {form: {day for day in days if _parses(day, form)} for form in clear}
    return tuple(form for form in clear if read[form]) if set().union(*read.values()) == days else ()


def _parses(day: str, form: str) -> bool:
    try:
        datetime.strptime(day, form)
    except ValueError:
        return False
    return True


def text_sql(column: str) -> str:
    """Return SQL for the stripped text of a raw column, NULL when blank."""
    return f"nullif(trim({column}, ' \t\r\n\u00a0'), '')"


def typed_sql(column: str, how: Interpretation) -> str:
    """Return SQL that converts a column of :func:`text_sql`'s texts; NULL where a text does not fit ``how``."""
    if how.form == "truth":
        return f"TRY_CAST({column} AS BOOLEAN)"
    if how.form == "plain":
        pattern = INTEGER if how.type == "BIGINT" else PLAIN
        return f"CASE WHEN regexp_full_match({column}, '{pattern}') THEN TRY_CAST({column} AS {how.type}) END"
    if how.form == "decimal comma":
        plain = f"TRY_CAST(replace(replace({column}, '.', ''), ',', '.') AS DOUBLE)"
        return f"CASE WHEN regexp_full_match({column}, '{DECIMAL_COMMA}') THEN {plain} END"
    if how.form == "formatted":
        return _formatted_sql(column, how.type)
    if how.form == "date":
        return _temporal_sql(column, how)
    return column


def _formatted_sql(text: str, type_: str) -> str:
    digits = f"replace(regexp_extract({text}, '([0-9][0-9,]*\\.?[0-9]*|\\.[0-9]+)([eE][-+]?[0-9]+)?'), ',', '')"
    sign = f"CASE WHEN regexp_matches({text}, '^[^0-9]*[-−–]|^\\(.*\\)') THEN -1 ELSE 1 END"
    scale = (
        f"CASE WHEN regexp_matches({text}, '[kK]{_END}|[tT]housand') THEN 1000 "
        f"WHEN regexp_matches({text}, '[mM]{_END}|[mM]illion') THEN 1000000 "
        f"WHEN regexp_matches({text}, '[bB]{_END}|[bB]illion') THEN 1000000000 ELSE 1 END"
    )
    scaled = f"TRY_CAST({digits} AS {type_}) * ({sign}) * ({scale})"
    money = f"(regexp_matches({text}, '[$€£]') OR NOT regexp_matches({text}, '[A-Za-z]{_END}'))"
    return f"CASE WHEN regexp_full_match({text}, '{NUMBER}') AND {money} THEN TRY(CAST({scaled} AS {type_})) END"


def _temporal_sql(text: str, how: Interpretation) -> str:
    if how.formats == ("%Y-%m-%d",):
        return f"TRY_CAST({text} AS {how.type})"
    times = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S.%g", "T%H:%M:%S.%gZ")
    formats = ", ".join(f"'{day}{time}'" for day in how.formats for time in times)
    return f"CAST(try_strptime({text}, [{formats}]) AS {how.type})"


def marker_sql(column: str) -> str:
    """Return SQL that is true where the text stands for a missing value (``M``, ``N/A``, ``--``)."""
    return f"regexp_full_match({column}, '{MARKER}')"


def timed_sql(column: str, how: Interpretation) -> str:
    """Return SQL that is true where a date has a time of day beside it."""
    moment = typed_sql(column, replace(how, type="TIMESTAMP"))
    return f"{moment} <> CAST({moment} AS DATE)" if how.type == "DATE" else "false"


def code_sql(column: str) -> str:
    """Return SQL that is true where the text is a code (``02134``), whose zeros a number would not keep."""
    return f"regexp_full_match({column}, '{CODE}')"


def as_mixed(how: Interpretation) -> Interpretation:
    """Return the widest numeric reading, with the original texts kept beside it."""
    return replace(how, type="DOUBLE", form="formatted", keep_text=True)
