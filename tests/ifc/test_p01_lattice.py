"""P1: the laws of the label lattice, and that a label is read as it was written or refused."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys import topics
from agentsys.blackboard.conflicts import Conflict, KeyConflict
from agentsys.blackboard.labels import BOTTOM, NOBODY, PUBLIC, EndorsedInfluence, Label, Readers, join_all
from agentsys.quotas import is_race

PRINCIPALS = st.sampled_from(["user:ann", "user:bob", "file:a.csv", "external"])
READERS = st.one_of(st.just(PUBLIC), st.frozensets(PRINCIPALS).map(Readers))
CAPACITIES = st.one_of(st.just(math.inf), st.floats(min_value=0, max_value=1e6))
ENDORSEMENTS = st.frozensets(
    st.builds(EndorsedInfluence, st.sampled_from(["contact", "amount"]), PRINCIPALS), max_size=3
)
LABELS = st.builds(Label, st.frozensets(PRINCIPALS), READERS, CAPACITIES, ENDORSEMENTS)


@given(LABELS, LABELS, LABELS)
def test_join_is_associative_commutative_idempotent_and_has_bottom_as_identity(a: Label, b: Label, c: Label) -> None:
    assert a.join(b).join(c) == a.join(b.join(c)) == a.join(b, c) == join_all([a, b, c])
    assert a.join(b) == b.join(a)
    assert a.join(a) == a
    assert a.join(BOTTOM) == BOTTOM.join(a) == a


@given(LABELS, LABELS, LABELS)
def test_flows_to_is_a_partial_order(a: Label, b: Label, c: Label) -> None:
    assert a.flows_to(a)
    assert BOTTOM.flows_to(a)
    if a.flows_to(b) and b.flows_to(a):
        assert a == b
    if a.flows_to(b) and b.flows_to(c):
        assert a.flows_to(c)


@given(LABELS, LABELS, LABELS)
def test_join_is_the_least_upper_bound(a: Label, b: Label, c: Label) -> None:
    joined = a.join(b)
    assert a.flows_to(joined) and b.flows_to(joined)
    assert (a.flows_to(c) and b.flows_to(c)) == joined.flows_to(c)
    assert a.flows_to(b) == (joined == b)


@given(LABELS)
def test_json_round_trip_keeps_a_label_exactly(label: Label) -> None:
    assert Label.from_json(json.loads(json.dumps(label.to_json()))) == label


@pytest.mark.parametrize("missing", ["influencers", "readers", "capacity"])
def test_incomplete_json_is_refused_instead_of_lowered(missing: str) -> None:
    data = Label().to_json()
    del data[missing]
    with pytest.raises(ValueError, match="influencers, readers, capacity and maybe endorsements"):
        Label.from_json(data)


@pytest.mark.parametrize("capacity", [math.nan, -1.0])
def test_impossible_capacities_are_refused(capacity: float) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Label(capacity=capacity)


def test_nobody_and_public_bound_the_readers() -> None:
    assert PUBLIC.permits(NOBODY) and PUBLIC.permits(PUBLIC)
    assert not NOBODY.permits(Readers.of("user:ann"))
    assert not Readers.of("user:ann").permits(PUBLIC)


@pytest.mark.parametrize(
    "lower",
    [
        {"influencers": frozenset({"a"})},
        {"readers": Readers.of("x", "y", "z")},
        {"readers": PUBLIC},
        {"capacity": 1.0},
        {"endorsements": frozenset()},
    ],
)
def test_a_value_flows_nowhere_that_is_lower_in_a_single_part(lower: dict[str, Any]) -> None:
    facts = frozenset({EndorsedInfluence("contact", "c")})
    label = Label(frozenset({"a", "b"}), Readers.of("x", "y"), 2.0, facts)
    assert label.flows_to(label)
    assert not label.flows_to(replace(label, **lower))
    assert replace(label, **lower).flows_to(label)


def test_whom_a_person_trusts_and_who_may_read_it_is_said_apart() -> None:
    assert Label.trusted("user:ann", NOBODY).readers == NOBODY
    assert Label.trusted("user:ann", Readers.of("user:bob")) == Label(frozenset({"user:ann"}), Readers.of("user:bob"))
    assert Label.trusted("user:ann").readers == Readers.of("user:ann")


def test_integrity_asks_for_every_influencer() -> None:
    label = Label.trusted("user:ann").join(Label())
    assert not label.influenced_only_by(["user:ann"])
    assert label.influenced_only_by(["user:ann", "external"])


GOOD = {"influencers": ["mail"], "readers": None, "capacity": 1, "endorsements": [["contact", "web"]]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"influencers": "mail"}, "principals are a list of names"),
        ({"influencers": {"mail": 1}}, "principals are a list of names"),
        ({"influencers": ["mail", 1]}, "principals are a list of names"),
        ({"influencers": None}, "principals are a list of names"),
        ({"readers": "mail"}, "principals are a list of names"),
        ({"readers": [None]}, "principals are a list of names"),
        ({"capacity": True}, "a number of bits or null, got True"),
        ({"capacity": "1"}, "a number of bits or null, got '1'"),
        ({"capacity": -1}, "capacity must be a number of bits >= 0"),
        ({"capacity": math.nan}, "capacity must be a number of bits >= 0"),
        ({"capacity": 10**400}, "that a float can hold"),
        ({"endorsements": None}, "are pairs of endorser and influencer"),
        ({"endorsements": {}}, "are pairs of endorser and influencer"),
        ({"endorsements": "ab"}, "are pairs of endorser and influencer"),
        ({"endorsements": ["ab"]}, "are pairs of endorser and influencer"),
        ({"endorsements": [["a"]]}, "are pairs of endorser and influencer"),
        ({"endorsements": [["a", "b", "c"]]}, "are pairs of endorser and influencer"),
        ({"endorsements": [["a", "b"], ["c"]]}, "are pairs of endorser and influencer"),
        ({"endorsements": [["a", 1]]}, "names an endorser and an influencer"),
        ({"endorsements": [[1, "b"]]}, "names an endorser and an influencer"),
        ({"surprise": 1}, "'readers', 'surprise'"),
    ],
)
def test_malformed_json_is_refused_and_the_fault_is_named(change: dict[str, object], fault: str) -> None:
    assert Label.from_json(GOOD).capacity == 1.0
    with pytest.raises(ValueError, match=fault):
        Label.from_json({**GOOD, **change})


@pytest.mark.parametrize("data", [None, [], "influencers", ["influencers", "readers", "capacity"]])
def test_what_is_no_object_is_no_label(data: object) -> None:
    with pytest.raises(ValueError, match=f"got {type(data).__name__}$"):
        Label.from_json(data)  # type: ignore[arg-type]


def test_a_label_is_written_in_one_way() -> None:
    label = Label(frozenset({"b", "a"}), Readers.of("d", "c"), math.inf, frozenset({EndorsedInfluence("e", "f")}))
    assert list(label.to_json()) == ["influencers", "readers", "capacity", "endorsements"]
    assert label.to_json() == {
        "influencers": ["a", "b"],
        "readers": ["c", "d"],
        "capacity": None,
        "endorsements": [["e", "f"]],
    }
    assert BOTTOM.to_json() == {"influencers": [], "readers": None, "capacity": 0.0}


def test_a_label_is_told_to_people() -> None:
    label = Label(frozenset({"b", "a"}), Readers.of("d", "c"), 1.0, frozenset({EndorsedInfluence("e", "f")}))
    assert str(label) == "influenced by a, b, f through e · readable by c, d"
    assert str(BOTTOM) == "influenced by nobody · readable by everyone"
    assert str(Label(frozenset(), NOBODY)) == "influenced by nobody · readable by nobody"


def test_a_join_that_changes_nothing_is_the_label_itself() -> None:
    """Joins are made at every step, mostly of labels that are the same: these make no new object."""
    label = Label.trusted()
    assert label.join(label, label) is label
    assert label.join() is label
    assert BOTTOM.join(label) is label
    assert label.join(BOTTOM) is label
    assert label.readers.join(Readers.of("user:owner", "x")) is label.readers
    assert PUBLIC.join(NOBODY) is NOBODY and NOBODY.join(PUBLIC) is NOBODY
    assert Readers.of("a").join(Readers.of("b")) == NOBODY
    assert label.readers.join(Readers.of("user:owner")) is label.readers
    assert label.join(replace(label, readers=Readers.of("user:owner"))) is label
    assert label.shaped_by == {"user:owner"}


def test_only_those_who_lost_to_other_spenders_alone_try_again() -> None:
    ours = KeyConflict(topics.QUOTAS, "k", 1, None, None)
    other = KeyConflict("notes", "k", 1, None, None)
    conflicts = [Conflict("t", items) for items in ((ours,), (ours, ours), (ours, other), (other,))]
    assert [is_race(conflict) for conflict in conflicts] == [True, True, False, False]
