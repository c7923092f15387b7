from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.scorer import is_right

RIGHT = [
    (13.1628, 13.1628, "numeric_exact"),
    (3, "3", "numeric_exact"),
    (32542, 32542.0, "numeric_exact"),
    (2111635, "2,111,635", "numeric_exact"),
    (47.37, "47.37%", "numeric_exact"),
    (47.37, [47.37], "numeric_exact"),
    (13.1628, 13.17, "numeric_approximate"),
    ("Delaware", " delaware ", "string_exact"),
    ("Los Angeles-Long Beach CA", "Los Angeles-Long Beach, CA", "string_exact"),
    ("U.S. Space Force", "Space Force", "string_approximate"),
    ([2010, 2011], [2011, 2010], "list_exact"),
    (["Bucks Creek", "Forest Street"], ["forest street", "Bucks Creek"], "string_exact"),
    ([1.0, 2.0], [1.001, 1.999], "list_approximate"),
]

WRONG = [
    (13.1628, 13.1629, "numeric_exact"),
    (3, 4, "numeric_exact"),
    (3, None, "numeric_exact"),
    (1, True, "numeric_exact"),
    (3, "three", "numeric_exact"),
    (0.37, float("nan"), "numeric_exact"),
    (13.1628, 14.0, "numeric_approximate"),
    ("Delaware", "Maryland", "string_exact"),
    ("Delaware", ["Delaware", "Maryland"], "string_exact"),
    ("Delaware", "Delaware County", "string_exact"),
    ("U.S. Space Force", "U.S. Air Force", "string_approximate"),
    ("U.S. Space Force", "Force", "string_approximate"),
    ("U.S. Space Force", "", "string_approximate"),
    ([2010, 2011], [2010], "list_exact"),
    ([2010, 2011], [2010, 2011, 2012], "list_exact"),
    ([2010, 2011], [2010, 2010], "list_exact"),
    ([2010, 2011], 2010, "list_exact"),
    ([1.0, 2.0], [1.0, 2.5], "list_approximate"),
    ("No", "Yes", "string_exact"),
]


@pytest.mark.parametrize(("expected", "answer", "answer_type"), RIGHT)
def test_right_answers_count(expected: Any, answer: Any, answer_type: str) -> None:
    assert is_right(expected, answer, answer_type)


@pytest.mark.parametrize(("expected", "answer", "answer_type"), WRONG)
def test_planted_wrong_answers_do_not(expected: Any, answer: Any, answer_type: str) -> None:
    assert not is_right(expected, answer, answer_type)
