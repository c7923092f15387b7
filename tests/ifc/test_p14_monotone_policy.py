"""P14: making any argument, or the caller, less trusted or less readable never turns a denial into permission."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from agentsys.blackboard.labels import Label
from agentsys.policy.policy import Policy
from tests.ifc.checking import holds, is_violated
from tests.ifc.strategies import ARGUMENTS, Call, calls, calls_by_trusted, labels, rank

parts = st.sampled_from(["control", *ARGUMENTS])


def unendorsed(label: Label, trusted: frozenset[str]) -> Label:
    """Return ``label`` with what untrusted principals did through endorsers as done by themselves."""
    raw = frozenset(fact for fact in label.endorsements if fact.influencer not in trusted)
    influencers = label.influencers | {fact.influencer for fact in raw}
    return replace(label, influencers=influencers, endorsements=label.endorsements - raw)


def raising(call: Call, part: str, more: Label) -> None:
    raised = call.with_label(part, call.label_of(part).join(more))
    assert rank(raised.decide()) <= rank(call.decide()), "a higher label permits more"


def unendorsing(call: Call, part: str) -> None:
    raw = call.with_label(part, unendorsed(call.label_of(part), call.policy.trusted))
    assert rank(raw.decide()) <= rank(call.decide()), "without its endorsement it permits more"


def test_a_higher_label_never_permits_more() -> None:
    holds(raising, call=calls(), part=parts, more=labels)


def test_a_label_without_its_endorsements_never_permits_more() -> None:
    holds(unendorsing, call=calls(), part=parts)


def test_an_inverted_trust_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of CaMeL's policy for ``delete_email``: what is trusted is denied, what is not is allowed."""
    right = Policy.trusts
    monkeypatch.setattr(Policy, "trusts", lambda self, label, endorsers=(): not right(self, label, endorsers))
    is_violated(raising, call=calls(), part=parts, more=labels)


def test_inverted_readers_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Policy.permits
    monkeypatch.setattr(Policy, "permits", lambda self, label, audience: not right(self, label, audience))
    is_violated(raising, call=calls(), part=parts, more=labels)


def test_influencers_that_are_forgotten_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusts(self: Policy, label: Label, endorsers: Iterable[str] = ()) -> bool:
        accepted = set(endorsers)
        return all(fact.endorser in accepted for fact in label.endorsements)

    monkeypatch.setattr(Policy, "trusts", trusts)
    is_violated(unendorsing, call=calls_by_trusted(), part=st.just("to"))
