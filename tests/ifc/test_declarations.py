"""What holds where a policy or a label says nothing: the safe side, written out."""

from __future__ import annotations

import math

import pytest

from agentsys import gateway, quotas
from agentsys.blackboard import labels
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, PUBLIC, Label, Readers, join_all
from agentsys.gateway import Deny
from agentsys.handles import HandleOpaque, Hidden, NoValue
from agentsys.policy.documents import PolicyFault, read_policy
from agentsys.policy.domains import Domain
from agentsys.policy.endorsers import DIRECTIVES, MAX_DATE, MOST, PERSON, Endorser
from agentsys.policy.policy import Answering, Policy
from agentsys.policy.rules import ARGUMENT, EVERYONE, ArgumentRule, Limits, ToolRule
from agentsys.quotas import QuotaExceeded


def test_unlabelled_input_is_a_strangers_for_the_owner_alone_and_says_anything() -> None:
    assert Label() == Label(frozenset({"external"}), Readers(frozenset({"user:owner"})), math.inf, frozenset())
    assert ("external", "user:owner", math.inf) == (labels.EXTERNAL, OWNER, labels.FREE_TEXT)
    assert (Readers(None), Readers(frozenset())) == (PUBLIC, NOBODY)
    assert BOTTOM == Label(frozenset(), PUBLIC, 0.0) == join_all([])
    assert Label.trusted() == Label(frozenset({OWNER}), Readers.of(OWNER))
    assert Label.trusted("a") == Label(frozenset({"a"}), Readers.of("a"))
    assert Label.trusted("a", PUBLIC) == Label(frozenset({"a"}), PUBLIC)
    assert labels._trusted.cache_info().maxsize == 4096


def test_an_undeclared_argument_decides_what_is_done() -> None:
    assert ArgumentRule().model_dump() == {"role": "control", "endorsers": (), "links": "keep", "hosts": None}
    assert ToolRule().argument("x") == ArgumentRule()


def test_an_undeclared_tool_is_as_it_declares_itself() -> None:
    assert ToolRule().model_dump() == {
        "description": None,
        "consequential": None,
        "ask": "never",
        "audience": None,
        "declassifies": False,
        "control_endorsers": (),
        "arguments": {},
        "source": None,
        "sources": {},
        "readers": None,
        "fields": {},
        "limits": {"run": None, "hour": None},
        "cost": 0.0,
    }
    assert Limits() == Limits(run=None, hour=None)
    assert (Limits(run=0).run, Limits(hour=0).hour, ToolRule(cost=0).cost) == (0, 0, 0.0)


def test_a_policy_that_says_nothing_trusts_the_owner_and_nobody_else() -> None:
    policy = Policy()
    assert policy.model_dump() == {
        "owner": OWNER,
        "trusted": frozenset({OWNER}),
        "processors": frozenset(),
        "approvers": frozenset({OWNER}),
        "open_topics": (),
        "tools": {},
        "closed": False,
        "endorsers": {},
        "domains": {},
        "links": frozenset(),
        "answer": {"endorsers": ()},
        "budget_bits": 256.0,
        "run_cost": None,
    }
    assert (policy.checks, policy.tests, policy.answer) == ((), (), Answering())
    assert Policy(budget_bits=0, run_cost=0).budget_bits == 0


def test_an_endorser_of_members_needs_a_directory_and_vouches_for_one_value() -> None:
    assert Endorser(domain="x").model_dump() == {
        "type": "member",
        "domain": "x",
        "minimum": None,
        "maximum": None,
        "step": 1.0,
        "as_text": False,
        "earliest": None,
        "latest": None,
        "format": "%Y-%m-%d",
        "many": 0,
    }
    assert Domain(values=("a",)).model_dump() == {"values": ("a",), "tool": None, "path": "*"}
    assert (PERSON, ARGUMENT, EVERYONE, MAX_DATE, MOST) == ("person", "argument:", "everyone", 40, 2**53)


@pytest.mark.parametrize("part", [Policy, ToolRule, ArgumentRule, Limits, Domain, Endorser, Answering])
def test_no_part_of_a_policy_takes_keys_that_nobody_reads_or_changes_later(part: type) -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        part(surprise=1)
    config = part.model_config  # type: ignore[attr-defined]
    assert (config["extra"], config["frozen"], config["allow_inf_nan"]) == ("forbid", True, False)


def test_denials_tell_nothing_and_hidden_values_have_no_parts_or_faults_unless_said() -> None:
    assert Deny("x", "y").telling is False
    hidden = Hidden(1, BOTTOM)
    assert (hidden.fields, hidden.failure) == ({}, None)
    assert (gateway.CHECK_SECONDS, quotas.HOUR) == (5.0, 3600)
    assert gateway.PolicyDenied("x").rule == "audience"


def test_codes_of_errors_stay() -> None:
    codes = {PolicyFault: "311", NoValue: "312", HandleOpaque: "313", QuotaExceeded: "314", gateway.PolicyDenied: "310"}
    assert {error: error.code for error in codes} == {error: f"AGS-0{code}" for error, code in codes.items()}


def test_a_policy_is_read_or_every_fault_is_named_with_its_place(tmp_path: object) -> None:
    assert read_policy("") == Policy()
    assert read_policy("closed = true") == Policy(closed=True)
    with pytest.raises(PolicyFault, match=r"^AGS-0311: the policy is no TOML: "):
        read_policy("closed = ")
    with pytest.raises(PolicyFault) as caught:
        read_policy("closed = 3\n[tools.send]\nask = 'sometimes'", "p.toml")
    message = str(caught.value)
    assert "p.toml: " in message and "closed: " in message and "tools.send.ask: " in message and "; " in message
    with pytest.raises(PolicyFault, match="the whole: "):
        read_policy("[answer]\nendorsers = ['ghost']")


def test_the_directives_of_dates_are_those_that_can_be_counted() -> None:
    assert frozenset("YmdHMSbBy") == DIRECTIVES
