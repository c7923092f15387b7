"""The one text of a value is what the standard encoder writes, and reads as the value; what is no JSON is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard.entries import InvalidValue, canonical_json, parse_canonical

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_the_text_is_the_standard_encoders_and_reads_as_the_value(value):
    text = canonical_json(value)
    assert text == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert parse_canonical(text) == value


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": -math.inf}, {1: 2}, (1,), {"a": object()}, "\ud800"])
def test_what_is_no_json_is_refused(value):
    with pytest.raises(InvalidValue):
        canonical_json(value)


def test_a_circle_is_refused():
    circle = []
    circle.append({"again": circle})
    with pytest.raises(InvalidValue):
        canonical_json(circle)
