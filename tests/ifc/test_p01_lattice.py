"""The laws of the label lattice."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard.labels import BOTTOM, NOBODY, PUBLIC, EndorsedInfluence, Label, Readers, join_all

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


def test_integrity_asks_for_every_influencer() -> None:
    label = Label.trusted("user:ann").join(Label())
    assert not label.influenced_only_by(["user:ann"])
    assert label.influenced_only_by(["user:ann", "external"])
