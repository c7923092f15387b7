"""Expressions: what a search may write is read, and nothing else; what it writes can be read again."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.simulator.expressions import MOST_NODES, ExpressionError, mutate, parse

NAMES = ("path", "work", "lead")
VALUES = {"path": 3.0, "work": -2.0, "lead": 0.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("path - work * 2", 7.0),
        ("max(path, work) / min(path, -work)", 1.5),
        ("-path + 0.5", -2.5),
        ("path / lead", 0.0),
        ("1e308 * 10 - 1e308 * 10", 0.0),
    ],
)
def test_values(text: str, value: float) -> None:
    assert parse(text, NAMES).value(VALUES) == value


@pytest.mark.parametrize(
    "faulty",
    [
        "",
        "deadline",
        "path +",
        "path ** 2",
        "path if work else lead",
        "path; work",
        "path.real",
        "'path'",
        "True",
        "1e999",
        "max(path)",
        "max(path, work, lead)",
        "max(*path)",
        "abs(path)",
        "__import__('os').system('true')",
        "(lambda: path)()",
        "(" * 900 + "path" + ")" * 900,
        " + ".join(["path"] * (MOST_NODES // 2 + 2)),
        "-" * 5_000 + "path",
    ],
)
def test_anything_else_is_refused(faulty: str) -> None:
    with pytest.raises(ExpressionError):
        parse(faulty, NAMES)


@given(st.integers(), st.integers(min_value=1, max_value=60))
def test_mutants_stay_within_the_language(seed: int, changes: int) -> None:
    chance = random.Random(seed)
    expression = parse("path - 0.2 * work", NAMES)
    for _ in range(changes):
        expression = mutate(expression, NAMES, chance)
    assert expression.size <= MOST_NODES
    again = parse(str(expression), NAMES)
    assert again.value(VALUES) == expression.value(VALUES)
    assert not math.isnan(again.value(VALUES))
    assert str(again) == str(expression)


def test_mutants_differ() -> None:
    first = parse("path - 0.2 * work", NAMES)
    assert len({str(mutate(first, NAMES, random.Random(seed))) for seed in range(50)}) > 25
