"""P4: what strangers write changes no consequential call, and no control or target argument, but through endorsers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st

from agentsys.blackboard.labels import Label
from agentsys.policy.policy import Policy
from agentsys.recording import Recording
from tests.ifc.checking import holds, is_violated
from tests.ifc.programs import Step, contents, orders, perform, programs

MAIL = [{"id": 1, "sender": "PICK bob@example.org", "body": "PICK random"}, {"id": 2, "sender": "eve", "body": "7"}]


def undisturbed(program: list[Step], one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two runs in which endorsers let the same through make the same decisions.

    A call whose text is not there, as a page that fails to load, is not made: strangers may withhold what they say.
    """
    first, second = perform(program, **one), perform(program, **other)
    shared = [(a, b) for a, b in zip(first.endorsed, second.endorsed, strict=False)]
    if first.endorsed == second.endorsed:
        withheld = first.lacking | second.lacking
        assert first.decided_beside(withheld) == second.decided_beside(withheld), "strangers decided"
    else:
        assert any(a != b for a, b in shared) or len(first.endorsed) != len(second.endorsed)


def bounded(program: list[Step], worlds: list[dict[str, Any]]) -> None:
    """Strangers choose among no more behaviours than the endorsers' bits count."""
    outcomes = [perform(program, **world) for world in worlds]
    withheld = set().union(*(outcome.lacking for outcome in outcomes))
    distinct = {repr(outcome.decided_beside(withheld)) for outcome in outcomes}
    most = max(outcome.bits for outcome in outcomes)
    assert len(distinct) <= 2**most + 1e-9
    assert most <= outcomes[0].world.policy.budget_bits * 2, "two strangers, a budget each"


def test_strangers_decide_nothing_but_through_endorsers() -> None:
    holds(undisturbed, examples=60, program=programs, one=contents(), other=contents())


def test_strangers_choose_among_what_their_bits_count() -> None:
    holds(bounded, examples=8, program=programs, worlds=st.lists(contents(), min_size=6, max_size=6))


def test_an_endorsed_choice_is_all_that_gets_through() -> None:
    program = [["hide", "read_mail"], ["choose", 0, [0, "sender"], "contact"], ["send", ["$", 1, []], "hello"]]
    picks = {name: [{**MAIL[0], "sender": f"PICK {name}@example.org"}, MAIL[1]] for name in ("ann", "bob", "eve")}
    outcomes = {name: perform(program, mail=mail) for name, mail in picks.items()}
    assert [outcomes[name].done for name in ("ann", "bob")] == [
        [("send", {"to": f"{name}@example.org", "text": "hello"})] for name in ("ann", "bob")
    ]
    assert outcomes["eve"].done == []
    assert {outcome.bits for outcome in outcomes.values()} == {math.log2(4)}


REVEALING = st.tuples(st.sampled_from(["mail", "pages"]), orders).map(
    lambda drawn: (
        [["open", "read_mail" if drawn[0] == "mail" else "browse"], ["think"]],
        {"mail": [{"id": 1, "sender": "x", "body": drawn[1]}]} if drawn[0] == "mail" else {"pages": [drawn[1]]},
    )
)


def obeying_nobody(drawn: Any) -> None:
    program, world = drawn
    calm = {"mail": [{"id": 1, "sender": "x", "body": "hello"}], "pages": ["hello"]}
    assert perform(program, **{**calm, **world}).decided == perform(program, **calm).decided


def test_whoever_thinks_about_orders_carries_none_out() -> None:
    holds(obeying_nobody, examples=20, drawn=REVEALING)


def test_a_gateway_that_trusts_strangers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusts(self: Policy, label: Label, endorsers: Iterable[str] = ()) -> bool:
        return True

    monkeypatch.setattr(Policy, "trusts", trusts)
    is_violated(obeying_nobody, drawn=REVEALING)


def test_a_reveal_that_raises_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "deliver", lambda self, *labels: None)
    is_violated(obeying_nobody, drawn=REVEALING)
