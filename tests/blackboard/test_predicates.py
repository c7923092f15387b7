"""Predicates mean the same in Python and in SQL."""

import pickle
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate

NAMES = st.sampled_from(["a", "ab", "a/b", "A", "b", "ä", "a%", "a_", "\U0001f600", "a\U0001f600", "\ufffd"])
TYPES = st.sampled_from(["note", "task"])
RUNS = st.sampled_from([None, "r1", "r2"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from([0.0, 1.0, 1.5]), st.just("1"))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from("xy"), SCALARS))
PREDICATES = st.builds(
    Predicate,
    topic=st.none() | NAMES,
    topic_prefix=st.none() | NAMES | st.just(""),
    type=st.none() | TYPES,
    run=RUNS,
    key_from=st.none() | NAMES,
    key_to=st.none() | NAMES,
    equals=st.dictionaries(st.sampled_from("xy"), SCALARS, max_size=1),
)
ROWS = st.lists(st.tuples(NAMES, NAMES, TYPES, RUNS, VALUES), max_size=12)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.lists(PREDICATES, min_size=1, max_size=5), st.integers(1, 3))
def test_a_query_returns_what_matches(rows: list[tuple[Any, ...]], predicates: list[Predicate], limit: int) -> None:
    with Board.open(":memory:") as board:
        for topic, key, type_, run, value in rows:
            tx = board.begin("user:ann", run=run)
            tx.put(topic, key, value, type=type_)
            board.commit(tx)
        everything = board.query(Predicate())
        assert len(everything) == len({row[:2] for row in rows})
        for predicate in predicates:
            expected = [entry for entry in everything if predicate.matches(entry)]
            assert board.query(predicate) == expected
            assert board.query(predicate, limit=limit) == expected[:limit]


@given(PREDICATES)
def test_json_round_trip(predicate: Predicate) -> None:
    again = Predicate.from_json(predicate.to_json())
    assert again == predicate and hash(again) == hash(predicate)


def test_what_is_asked_stays_as_it_was_given() -> None:
    wanted = {"x": [1]}
    predicate = Predicate(equals=wanted)
    wanted["x"].append(2)
    wanted["y"] = []
    assert predicate.to_json() == {"equals": {"x": [1]}} and predicate == Predicate(equals={"x": [1]})
    fixed = Predicate(equals=MappingProxyType({"x": 1}))
    assert pickle.loads(pickle.dumps(fixed)) == fixed


@pytest.mark.parametrize(("stored", "asked", "found"), [(1, 1, 1), (1, 1.0, 0), (1, True, 0), (True, True, 1)])
def test_equality_is_of_the_json_text(board: Board, stored: object, asked: object, found: int) -> None:
    tx = board.begin("user:ann")
    tx.put("t", "k", {"x": stored}, type="note")
    board.commit(tx)
    assert len(board.query(Predicate(equals={"x": asked}))) == found
