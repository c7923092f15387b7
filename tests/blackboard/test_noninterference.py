"""What a low-label observer sees is the same with and without high-label activity, as far as the board holds it today.

The observer's trace is what it reads (values, versions, absence), which of its commits are refused, and by what. Not in
it are the sequence numbers: they count everybody's commits, which the last test states.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.conflicts import Conflict, ConflictItem, CursorConflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.merges import SetFields
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.together import commit_together
from agentsys.blackboard.transactions import Transaction

LOW = Label.trusted("low", Readers.of("low", "high"))
HIGH = Label.trusted("high", Readers.of("high"))
OBSERVER = Readers.of("low")
TOPICS = ("a", "ab")
PREDICATES = (
    Predicate(topic="a"),
    Predicate(topic_prefix="a"),
    Predicate(type="item"),
    Predicate(equals={"n": 1}),
    Predicate(key_from="h", key_to="i"),
    Predicate(),
)

topics = st.sampled_from(TOPICS)
values = st.fixed_dictionaries({"n": st.integers(0, 1)})
low_steps = st.one_of(
    st.tuples(st.just("get"), st.integers(0, 1), topics, st.sampled_from(["l1", "l2", "h1"])),
    st.tuples(st.just("query"), st.integers(0, 1), st.sampled_from(PREDICATES)),
    st.tuples(st.just("put"), st.integers(0, 1), topics, st.sampled_from(["l1", "l2"]), values),
    st.tuples(st.just("delete"), st.integers(0, 1), topics, st.sampled_from(["l1", "l2"])),
    st.tuples(st.just("commit"), st.integers(0, 1)),
)
high_steps = st.tuples(st.just("high"), topics, st.sampled_from(["h1", "h2"]), st.none() | values)
programs = st.lists(st.one_of(low_steps, low_steps, high_steps), min_size=5, max_size=30)


@dataclass
class Observer:
    """Two clients with a low label on one board, and the trace of all they learn."""

    board: Board
    isolation: Isolation
    audience: Readers | None
    trace: list[Any] = field(default_factory=list)
    open: dict[int, Transaction] = field(default_factory=dict)

    def step(self, step: tuple[Any, ...]) -> None:
        kind, client, *arguments = step
        tx = self.open.get(client)
        if tx is None:
            tx = self.board.begin("low", isolation=self.isolation, audience=self.audience)
            self.open[client] = tx
        if kind == "get":
            self.trace.append(shown(tx.get(*arguments)))
        elif kind == "query":
            self.trace.append([shown(entry) for entry in tx.query(*arguments)])
        elif kind == "put":
            topic, key, value = arguments
            # Without an audience it reads what is high, and could not write low.
            tx.put(topic, key, value, type="item", label=LOW if self.audience else tx.reads_label.join(LOW))
        elif kind == "delete":
            tx.delete(*arguments)
        else:
            del self.open[client]
            self.trace.append(self.outcome(tx))

    def outcome(self, tx: Transaction) -> Any:
        try:
            return [shown(entry) for entry in self.board.commit(tx).writes]
        except Conflict as conflict:
            return [described(item) for item in conflict.items]


def shown(entry: Entry | None) -> Any:
    return entry and (entry.topic, entry.key, entry.version, entry.value, entry.deleted)


def described(item: ConflictItem) -> Any:
    assert not isinstance(item, CursorConflict)
    return item.kind, shown(item.old), shown(item.new)


def trace(
    program: list[tuple[Any, ...]], isolation: Isolation, *, high: bool, audience: Readers | None = OBSERVER
) -> list[Any]:
    with Board.open(":memory:") as board:
        observer = Observer(board, isolation, audience)
        for step in program:
            if step[0] != "high":
                observer.step(step)
            elif high:
                act(board, *step[1:])
        return observer.trace


def act(board: Board, topic: str, key: str, value: Any) -> None:
    tx = board.begin("high")
    if value is None:
        tx.delete(topic, key, label=HIGH)
    else:
        tx.put(topic, key, value, type="item", label=HIGH)
    board.commit(tx)


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_low_trace_is_the_same_with_and_without_high_activity(isolation: Isolation) -> None:
    @settings(max_examples=40, deadline=None)
    @given(programs)
    def check(program: list[tuple[Any, ...]]) -> None:
        assert trace(program, isolation, high=True) == trace(program, isolation, high=False)

    check()


# Low reads a set, high changes one of it, low commits.
REVEALING = [
    ("query", 0, Predicate(topic="a")),
    ("put", 0, "a", "l1", {"n": 0}),
    ("high", "a", "h1", {"n": 1}),
    ("commit", 0),
]


def test_without_an_audience_the_trace_tells_of_high_activity() -> None:
    traces = [trace(REVEALING, "serializable", high=high, audience=None) for high in (True, False)]
    assert traces[0] != traces[1]
    assert traces[0][-1][0][0] == "predicate", "low lost against high"


def test_low_still_conflicts_with_low() -> None:
    program = [
        ("query", 0, Predicate(topic="a")),
        ("put", 0, "a", "l1", {"n": 0}),
        ("put", 1, "a", "l2", {"n": 1}),
        ("commit", 1),
        ("commit", 0),
    ]
    assert trace(program, "serializable", high=False)[-1] == [("predicate", None, ("a", "l2", 1, {"n": 1}, False))]


def test_a_diff_shows_no_more_than_the_audience_may_read(board: Board) -> None:
    for label in (LOW, HIGH):
        tx = board.begin("high", audience=OBSERVER)
        seen = tx.get("a", "l1")
        tx.put("reports", "r", 1, type="report", label=LOW)
        other = board.begin("high")
        other.put("a", "l1", {"n": 1}, type="item", label=label)
        board.commit(other)
        with pytest.raises(Conflict) as caught:
            board.commit(tx)
        (item,) = caught.value.items
        assert not isinstance(item, CursorConflict)
        assert (item.old and item.old.label, item.new and item.new.label) == (
            seen and LOW,
            LOW if label is LOW else None,
        )


@pytest.mark.parametrize("together", [False, True])
def test_a_merge_does_not_show_its_author_what_the_audience_may_not_read(location: str, together: bool) -> None:
    with Board.open(location) as board:
        for key, label in (("l1", LOW), ("h1", HIGH)):
            tx = board.begin("high")
            tx.put("a", key, {"n": 1}, type="item", label=label)
            board.commit(tx)
        for audience, high in ((OBSERVER, None), (None, {"n": 1, "mine": 2})):
            tx = board.begin("low", audience=audience)
            for key in ("l1", "h1"):
                tx.merge("a", key, SetFields((("mine", 2),)), type="item", label=LOW)
            tx.put("a", "own", {"n": 3}, type="item", label=HIGH)
            for _ in range(2):
                commit = commit_together((board, tx))[0] if together else board.commit(tx)
                assert [entry.value for entry in commit.writes] == [{"n": 1, "mine": 2}, high, {"n": 3}]
        assert shown(board.get("a", "h1")) == ("a", "h1", 3, {"n": 1, "mine": 2}, False)
        assert board.verify() == board.head


def test_sequence_numbers_tell_that_something_was_committed(board: Board) -> None:
    """The channel that is left: every commit moves the one sequence of the board."""
    before = board.begin("low", audience=OBSERVER).snapshot
    act(board, "a", "h1", {"n": 1})
    assert board.begin("low", audience=OBSERVER).snapshot == before + 1
