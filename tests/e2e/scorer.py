"""Own scorer for KramaBench answers (the published one gives 0 to right numeric lists and inverts a tolerance).

Numbers are equal within rounding of the shown digits, or within 1 % where the type says approximate. Strings are
compared without case, punctuation and spacing; an approximate string may leave out less than half of the words.
Lists are compared without order, each element once.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

_EXACT: Final = 1e-9
_APPROXIMATE: Final = 0.01


def is_right(expected: Any, answer: Any, answer_type: str) -> bool:
    """Whether ``answer`` counts as ``expected``; the type is numeric, string or list, and exact or approximate."""
    approximate = answer_type.endswith("_approximate")
    if isinstance(expected, list):
        return isinstance(answer, list) and _same_elements(expected, answer, approximate)
    return _same_value(expected, answer, approximate)


def _same_elements(expected: list[Any], answer: list[Any], approximate: bool) -> bool:
    left = list(answer)
    for element in expected:
        match = next((item for item in left if _same_value(element, item, approximate)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _same_value(expected: Any, answer: Any, approximate: bool) -> bool:
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(expected, int | float) and not isinstance(expected, bool):
        number = _number(answer)
        tolerance = _APPROXIMATE if approximate else _EXACT
        return number is not None and math.isclose(expected, number, rel_tol=tolerance, abs_tol=_EXACT)
    if not isinstance(answer, str | int | float):
        return False
    wanted, given = _words(str(expected)), _words(str(answer))
    if not approximate or wanted == given:
        return wanted == given
    return bool(given) and set(given) <= set(wanted) and len(given) > len(wanted) / 2


def _number(answer: Any) -> float | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        return None
    try:
        return float(str(answer).replace(",", "").strip().removesuffix("%"))
    except ValueError:
        return None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold().replace(".", ""))
