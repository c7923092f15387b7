"""Policies as values: where they are read from, what a copy is, and what a directory holds."""

from __future__ import annotations

import json
import locale
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.labels import BOTTOM, PUBLIC, Label, Readers
from agentsys.policy.documents import load_policy, read_policy
from agentsys.policy.endorsers import Endorser, Refused
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ToolRule


def test_a_policy_is_read_alike_under_every_locale(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('owner = "user:zoë"', encoding="utf-8")
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        assert load_policy(path).owner == "user:zoë"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_a_copy_shares_what_it_is_made_of_unless_it_is_to_be_deep() -> None:
    policy = Policy(tools={"x": ToolRule(ask="always")})
    assert policy.model_copy().tools is policy.tools
    deep = policy.model_copy(deep=True)
    assert deep == policy and deep.tools is not policy.tools
    changed = policy.model_copy(update={"closed": True})
    assert policy.version == policy.model_copy().version != changed.version


def test_all_that_a_policy_says_can_be_written_as_json() -> None:
    policy = read_policy('trusted = ["b", "a"]\nopen_topics = ["x"]\n[tools.send]\naudience = ["cy"]\n')
    assert json.loads(json.dumps(policy.canonical))["trusted"] == ["a", "b"]
    assert policy.canonical["tools"]["send"]["audience"] == ["cy"]


@pytest.mark.parametrize(("value", "member"), [(None, "none"), (["a"], "['a']"), ({}, "{}"), (True, "true")])
def test_what_is_no_text_and_no_number_is_not_the_member_that_is_spelt_like_it(value: Any, member: str) -> None:
    endorser = Endorser(domain="x")
    assert endorser.admit(member, (member,)) == member
    with pytest.raises(Refused):
        endorser.admit(value, (member,))


def test_a_number_is_its_member_within_a_millionth_of_a_step() -> None:
    """So that what floats make of a sum is not refused; what comes out is the member."""
    endorser = Endorser(type="number", minimum=0, maximum=10)
    assert [endorser.admit(value, ()) for value in (1e-6, 0.9999999, 3)] == [0, 1, 3]
    for value in (1.1e-6, 0.9999):
        with pytest.raises(Refused):
            endorser.admit(value, ())


@pytest.mark.parametrize("value", [None, 7, ["~"], {}])
def test_what_is_no_text_is_no_date_even_where_its_format_names_no_time(value: Any) -> None:
    endorser = Endorser(type="date", format="~", earliest="~", latest="~")
    assert (endorser.admit("~", ()), endorser.size(())) == ("~", 1)
    with pytest.raises(Refused):
        endorser.admit(value, ())


def test_processors_learn_what_few_may_read_and_add_nobody_to_what_all_may() -> None:
    policy = Policy.of(processors=["model-server:here"])
    kept = Label(frozenset(), Readers.of("user:ann"), 0.0)
    assert policy.learners(kept) == Readers.of("user:ann", "model-server:here")
    assert policy.learners(BOTTOM) == PUBLIC


def test_the_owner_may_read_what_all_may_and_what_names_her() -> None:
    policy = Policy.of(owner="user:ann")
    assert policy.owner_may_read(BOTTOM)
    assert policy.owner_may_read(Label(frozenset(), Readers.of("user:ann"), 0.0))
    assert not policy.owner_may_read(Label(frozenset(), Readers.of("user:bob"), 0.0))


def test_only_the_named_approvers_decide() -> None:
    assert Policy.of(approvers=["user:bob"]).approvers == {"user:bob"}


def test_the_version_tells_checks_apart_whose_source_is_not_at_hand() -> None:
    one, other = (eval("lambda *_: None") for _ in range(2))
    one.__qualname__, other.__qualname__ = "one", "other"
    versions = [Policy(checks=(check,)).version for check in (one, other, one)]
    assert versions[0] == versions[2] != versions[1]
