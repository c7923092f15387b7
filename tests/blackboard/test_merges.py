"""Merges: counters, sets and maps that many write at once, without a conflict and without a lost change."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import InvalidValue
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.blackboard.merges import Add, Discard, Insert, Merge, MergeMismatch, SetFields, UnsetFields, merged
from agentsys.blackboard.predicates import Predicate

members = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["a", "b"]), st.just({"n": 1}))
names = st.sampled_from(["x", "y"])
inserts = st.lists(members, max_size=3).map(tuple).map(Insert)
fields = st.lists(st.tuples(names, st.integers(0, 3)), max_size=2).map(tuple).map(SetFields)


def merge(board: Board, change: Merge, **arguments: Any) -> None:
    tx = board.begin("ann", **arguments)
    tx.merge("shared", "it", change, type="merged")
    board.commit(tx)


def value(board: Board) -> Any:
    entry = board.get("shared", "it")
    return None if entry is None else entry.value


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_transactions_that_overlap_in_time_all_count(board: Board, isolation: Isolation) -> None:
    open_at_once = [board.begin("ann", isolation=isolation) for _ in range(10)]
    for tx in open_at_once:
        tx.merge("shared", "it", Add(2), type="counter")
    for tx in open_at_once:
        board.commit(tx)
    assert value(board) == 20
    assert len(board.history("shared", "it")) == 10 and board.verify() == 10


def test_threads_lose_nothing(board: Board) -> None:
    def work() -> None:
        for _ in range(50):
            merge(board, Add(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(board) == 200


def test_what_replaces_the_value_still_conflicts_with_a_merge(board: Board) -> None:
    merge(board, Add(1))
    replacing = board.begin("ann")
    current = replacing.get("shared", "it")
    assert current is not None
    replacing.put("shared", "it", current.value + 1, type="counter")  # type: ignore[operator]
    merge(board, Add(5))
    with pytest.raises(Conflict):
        board.commit(replacing)
    assert value(board) == 6


def test_a_merge_that_read_its_entry_depends_on_what_it_read(board: Board) -> None:
    tx = board.begin("ann")
    tx.merge("shared", "it", Add(1), type="counter")
    seen = tx.get("shared", "it")
    assert seen is not None and seen.value == 1
    merge(board, Add(5))
    with pytest.raises(Conflict):
        board.commit(tx)
    tx = board.begin("ann")
    tx.merge("shared", "it", Add(1), type="counter")
    assert [entry.value for entry in tx.query(Predicate(topic="shared"))] == [6]
    merge(board, Add(5))
    with pytest.raises(Conflict):
        board.commit(tx)


def test_merges_of_one_transaction_follow_each_other_and_its_other_writes(board: Board) -> None:
    tx = board.begin("ann")
    tx.merge("shared", "it", Add(1), type="counter")
    tx.merge("shared", "it", Add(2), type="counter")
    mark = tx.savepoint()
    tx.merge("shared", "it", Add(100), type="counter")
    tx.rollback_to(mark)
    board.commit(tx)
    assert value(board) == 3
    tx = board.begin("ann")
    tx.put("shared", "it", 10, type="counter")
    tx.merge("shared", "it", Add(1), type="counter")
    board.commit(tx)
    assert value(board) == 11
    tx = board.begin("ann")
    tx.delete("shared", "it")
    tx.merge("shared", "it", Add(1), type="counter")
    board.commit(tx)
    assert value(board) == 1


def test_a_query_of_other_entries_leaves_a_merge_free_of_conflicts(board: Board) -> None:
    merge(board, Add(1))
    tx = board.begin("bob")
    tx.merge("shared", "it", Add(1), type="counter")
    before = tx.reads_label
    assert tx.query(Predicate(topic="else")) == [] and tx.reads_label == before
    merge(board, Add(5))
    board.commit(tx)
    assert value(board) == 7


def test_a_merge_derives_from_all_that_was_read_before_the_last_of_its_changes(board: Board) -> None:
    for key in ("one", "two"):
        tx = board.begin("ann")
        tx.put("shared", key, 1, type="note")
        board.commit(tx)
    tx = board.begin("ann")
    for key in ("one", "two"):
        tx.get("shared", key)
        tx.merge("shared", "it", Add(1), type="counter")
        tx.merge("shared", key, Add(1), type="counter")
    sources = {entry.key: [ref.key for ref in entry.derived_from] for entry in board.commit(tx).writes}
    assert sources == {"it": ["one", "two"], "one": ["one"], "two": ["one", "two"]}


def test_what_a_merge_was_given_may_be_changed_afterwards(board: Board) -> None:
    item, field = {"n": 1}, ["a"]
    tx = board.begin("ann")
    tx.merge("shared", "it", Insert((item,)), type="set")
    tx.merge("shared", "map", SetFields((("x", field), ("y", 1))), type="map")
    tx.merge("shared", "map", UnsetFields(("y",)), type="map")
    item["n"] = 2
    field.append(object())  # type: ignore[arg-type]
    assert [entry.value for entry in board.commit(tx).writes] == [[{"n": 1}], {"x": ["a"]}]


def test_another_kind_of_value_is_refused_and_the_rest_commits(board: Board) -> None:
    tx = board.begin("ann")
    tx.put("shared", "it", "text", type="note")
    board.commit(tx)
    wrong, right = board.begin("ann"), board.begin("ann")
    wrong.merge("shared", "it", Add(1), type="counter")
    right.merge("shared", "other", Add(1), type="counter")
    futures = [board.submit(wrong), board.submit(right)]
    with pytest.raises(MergeMismatch):
        futures[0].result()
    assert futures[1].result().writes[0].value == 1 and value(board) == "text"


@pytest.mark.parametrize("change", [Add(True), Add(1.5), Insert((object(),)), SetFields((("x", float("nan")),))])  # type: ignore[arg-type]
def test_what_cannot_be_stored_is_refused_at_once(board: Board, change: Merge) -> None:
    with pytest.raises((MergeMismatch, InvalidValue)):
        board.begin("ann").merge("shared", "it", change, type="merged")


def test_the_label_is_the_join_with_what_was_there(board: Board) -> None:
    for who, readers in (("file:a", PUBLIC), ("file:b", Readers.of("user:ann"))):
        tx = board.begin("ann")
        tx.merge("shared", "it", Add(1), type="counter", label=Label(frozenset({who}), readers, 1.0))
        board.commit(tx)
    entry = board.get("shared", "it")
    assert entry is not None and entry.label.influencers == {"file:a", "file:b"}
    assert entry.label.readers == Readers.of("user:ann")
    assert [ref.version for ref in entry.derived_from] == [1]


@given(st.lists(st.one_of(inserts, st.lists(members, max_size=2).map(tuple).map(Discard)), max_size=6))
def test_a_set_is_what_pythons_is(changes: list[Merge]) -> None:
    here: Any = None
    model: set[str] = set()
    for change in changes:
        here = merged(here, change)
        items = {repr(item) for item in change.items}  # type: ignore[union-attr]
        model = model | items if isinstance(change, Insert) else model - items
    assert {repr(item) for item in here or []} == model


@given(
    st.permutations([Add(1), Add(-3), Add(7)]), st.permutations([Insert(("a",)), Insert(("b", 1)), Insert(("a", 2))])
)
def test_order_does_not_matter_to_counters_and_growing_sets(adds: list[Merge], grows: list[Merge]) -> None:
    total: Any = None
    for change in adds:
        total = merged(total, change)
    grown: Any = None
    for change in grows:
        grown = merged(grown, change)
    assert (total, grown) == (5, ["a", "b", 1, 2])


@given(st.lists(st.one_of(fields, st.lists(names, max_size=2).map(tuple).map(UnsetFields)), max_size=6))
def test_a_field_belongs_to_its_last_writer(changes: list[Merge]) -> None:
    here: Any = None
    model: dict[str, int] = {}
    for change in changes:
        here = merged(here, change)
        if isinstance(change, SetFields):
            model.update(dict(change.fields))
        elif isinstance(change, UnsetFields):
            model = {name: item for name, item in model.items() if name not in change.names}
    assert (here or {}) == model
