"""The gateway against its specification: every decision about a random call is the one that the design's rules give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY, OWNER, PUBLIC, EndorsedInfluence, Label, Readers, join_all
from agentsys.gateway import Allow, AllowCall, AskCall, Deny, Gateway
from agentsys.policy.documents import PolicyFault, load_policy, read_policy
from agentsys.policy.endorsers import PERSON
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ArgumentRule, ToolRule
from agentsys.ruling import field_labels, own_source, ruled
from agentsys.tools import Tool, ToolRegistry, tool
from tests.ifc.checking import holds, is_violated
from tests.ifc.strategies import PRINCIPALS, Call, calls, labels, policies

EXAMPLES = settings(deadline=None, suppress_health_check=list(HealthCheck))
FANGLESS = "see hxxp[:]//evil[.]example/a"


def trusted(policy: Policy, label: Label, endorsers: Any) -> bool:
    through = {fact.endorser for fact in label.endorsements}
    return set(label.influencers) <= set(policy.trusted) and through <= set(endorsers)


def audience_of(call: Call, rule: ToolRule) -> set[str] | None:
    """Return who learns the arguments; ``None`` is everyone."""
    if rule.audience is None:
        members = call.tool.audience.members
        return None if members is None else set(members)
    named = {"argument:to": [call.arguments["to"]], "argument:absent": []}
    told = {name for member in rule.audience for name in named.get(member, [member])}
    return None if "everyone" in told else told


def may_learn(policy: Policy, label: Label, audience: set[str] | None) -> bool:
    if label.readers.members is None:
        return True
    return audience is not None and audience - policy.processors <= label.readers.members


def specified(call: Call) -> tuple[str, str]:
    """Return what is decided about a call, and by which rule, from decision 0018 alone."""
    policy, rule = call.policy, call.policy.tools.get("act", ToolRule())
    if policy.closed and "act" not in policy.tools:
        return "deny", "unlisted-tool"
    consequential = call.tool.consequential if rule.consequential is None else rule.consequential
    rules = {name: rule.arguments.get(name, ArgumentRule()) for name in call.labels}
    decided_by_trusted = trusted(policy, call.control, rule.control_endorsers) and all(
        trusted(policy, label, [*rules[name].endorsers, PERSON])
        for name, label in call.labels.items()
        if rules[name].role != "payload"
    )
    asked = rule.ask == "always" or (rule.ask == "if-untrusted" and consequential and not decided_by_trusted)
    if consequential and not decided_by_trusted and not asked:
        return "deny", "integrity"
    audience = audience_of(call, rule)
    beyond = [label for label in [call.control, *call.labels.values()] if not may_learn(policy, label, audience)]
    owned = all(label.readers.permits(Readers.of(policy.owner)) for label in beyond)
    if beyond and not (rule.declassifies and owned and (asked or decided_by_trusted)):
        return "deny", "audience"
    if asked:
        everything = join_all([call.control, *call.labels.values()])
        if not everything.readers.permits(Readers.of(policy.owner)):
            return "deny", "audience"
        return "ask", "ask-if-untrusted" if consequential and not decided_by_trusted else "ask"
    return "allow", "declassified" if beyond else "consequential" if consequential else "harmless"


def told_apart(decision: AllowCall | AskCall | Deny) -> tuple[str, str]:
    kinds = {AllowCall: "allow", AskCall: "ask", Deny: "deny"}
    return kinds[type(decision)], decision.rule


def as_specified(call: Call) -> None:
    decision = call.decide()
    assert told_apart(decision) == specified(call)
    rule = call.policy.tools.get("act", ToolRule())
    if isinstance(decision, AllowCall | AskCall):
        shaped = call.control.join(call.label_of("text"))
        cut = rule.argument("text").links == "defang" and not trusted(call.policy, shaped, ())
        shown = FANGLESS if cut and "evil.example" not in call.policy.links else call.arguments["text"]
        assert decision.arguments == {**call.arguments, "text": shown}
    else:
        named = rule.audience is not None and decision.rule == "audience"
        assert decision.telling == named or "asking about" in decision.reason


def test_every_decision_is_the_specified_one() -> None:
    holds(as_specified, call=calls())


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateway, "_check_influence", lambda self, proposal: None)
    is_violated(as_specified, call=calls())


@EXAMPLES
@given(policy=policies(), label=labels, topic=st.sampled_from(["notes", "open/x", "runs", "runs/r/steps", "quotas"]))
def test_every_write_is_decided_as_specified(policy: Policy, label: Label, topic: str) -> None:
    policy = policy.model_copy(update={"open_topics": ("open/",)})
    decision = Gateway(policy, ToolRegistry()).decide_write(topic, label)
    if topic.startswith("runs") or topic == "quotas":
        assert decision == Deny("reserved-topic", f"the topic {topic!r} holds the runtime's own record")
    elif topic == "open/x":
        assert decision == Allow("open-topic")
    elif trusted(policy, label, (PERSON,)):
        assert decision == Allow("trusted-write")
    else:
        assert isinstance(decision, Deny) and decision.rule == "write-integrity"
        assert decision.reason.endswith("would shape the shared topic 'notes'")
        for name in label.influencers - policy.trusted:
            assert name in decision.reason


def test_a_reason_names_who_is_in_the_way_and_nobody_else() -> None:
    label = Label(frozenset({OWNER, "web", "mail"}), PUBLIC, 1.0, frozenset({EndorsedInfluence("contact", "eve")}))
    reason = Gateway(Policy(), ToolRegistry()).decide_write("notes", label)
    assert isinstance(reason, Deny)
    assert reason.reason == "eve (through contact), mail, web would shape the shared topic 'notes'"


@pytest.mark.parametrize(
    ("readers", "audience", "reason"),
    [
        (Readers.of("b", "a"), PUBLIC, "x would disclose to everyone what only a, b may read"),
        (NOBODY, Readers.of("b", "a"), "x would disclose to a, b what only nobody may read"),
    ],
)
def test_a_disclosure_that_is_denied_names_both_sides(readers: Readers, audience: Readers, reason: str) -> None:
    gateway = Gateway(Policy(), ToolRegistry())
    assert gateway.decide_disclosure("x", Label(readers=readers), audience) == Deny("audience", reason)
    assert gateway.decide_disclosure("x", Label(readers=PUBLIC), audience) == Allow("audience")


def test_an_approver_is_asked_what_one_of_them_may_read() -> None:
    gateway = Gateway(Policy(approvers=frozenset({"user:ann", "user:cy"})), ToolRegistry())
    for name in ("user:ann", "user:cy"):
        assert gateway.decide_question("this", Label.trusted(name)) == Allow("audience")
    denied = gateway.decide_question("this", Label.trusted("user:bob"))
    assert denied == Deny("audience", "asking about this would ask nobody: no approver may read it")


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label(frozenset({"web"}), Readers.of("user:ann")))
def act(what: str) -> str:
    return what


def test_an_unlisted_tool_is_denied_by_a_closed_policy_alone() -> None:
    for closed, rule in ((True, "unlisted-tool"), (False, "consequential")):
        gateway = Gateway(Policy(closed=closed), ToolRegistry([act]))
        assert gateway.decide("act", {"what": "x"}, control=Label.trusted(), labels={}).rule == rule


def test_a_denial_says_which_tools_there_are() -> None:
    deny = Gateway(Policy(), ToolRegistry()).decide("x", {}, control=Label.trusted(), labels={})
    assert deny == Deny("unknown-tool", "no tool is named 'x'; there are none")
    deny = Gateway(Policy(), ToolRegistry([act])).decide("x", {}, control=Label.trusted(), labels={})
    assert deny == Deny("unknown-tool", "no tool is named 'x'; there are act")


def test_bad_arguments_are_named_with_their_place() -> None:
    deny = Gateway(Policy(), ToolRegistry([act])).decide("act", {"y": 1}, control=Label.trusted(), labels={})
    assert deny == Deny("bad-arguments", "act: what: Field required; y: Extra inputs are not permitted", telling=True)


@pytest.mark.parametrize(
    ("rule", "label"),
    [
        (ToolRule(), Label.trusted("mail")),
        (ToolRule(ask="always"), Label(frozenset({OWNER}), Readers.of("user:ann"))),
        (ToolRule(consequential=False, declassifies=True), Label(frozenset({"mail"}), PUBLIC)),
    ],
    ids=["integrity", "nobody to ask", "harmless"],
)
def test_what_the_labels_decide_comes_before_what_the_arguments_are(rule: ToolRule, label: Label) -> None:
    def check(name: str, arguments: Mapping[str, Any], label: Label) -> str | None:
        return "no" if arguments["what"] == "late" else None

    gateway = Gateway(Policy(checks=(check,), tools={"act": rule}), ToolRegistry([act]))
    found = [
        gateway.decide("act", {"what": what}, control=Label.trusted(), labels={"what": label})
        for what in ("x", 1, "late")
    ]
    if rule.consequential is False:
        assert [decision.rule for decision in found] == ["harmless", "bad-arguments", "check"]
        assert [getattr(decision, "telling", None) for decision in found[1:]] == [True, True]
    else:
        assert isinstance(found[0], Deny) and not found[0].telling
        assert found == [found[0]] * 3


async def test_checks_in_python_deny_more_and_see_the_whole_label() -> None:
    seen: list[tuple[str, Mapping[str, Any], Label]] = []

    def check(name: str, arguments: Mapping[str, Any], label: Label) -> str | None:
        seen.append((name, arguments, label))
        return "too late" if arguments["what"] == "late" else None

    gateway = Gateway(Policy(checks=(check,)), ToolRegistry([act]))
    both = {"what": Label.trusted(OWNER, PUBLIC)}
    allowed = await gateway.judge("act", {"what": "now"}, control=Label.trusted(), labels=both)
    denied = await gateway.judge("act", {"what": "late"}, control=Label.trusted(), labels=both)
    assert isinstance(allowed, AllowCall)
    assert denied == Deny("check", "too late", telling=True)
    assert seen[0] == ("act", {"what": "now"}, Label.trusted().join(both["what"]))


async def test_judging_decides_what_deciding_does() -> None:
    gateway = Gateway(Policy(), ToolRegistry([act]))
    for control, labels_ in ((Label(), {}), (Label.trusted(), {"what": Label()}), (Label.trusted(), {})):
        judged = await gateway.judge("act", {"what": "x"}, control=control, labels=labels_)
        assert judged == gateway.decide("act", {"what": "x"}, control=control, labels=labels_)


@EXAMPLES
@given(
    source=st.none() | st.lists(st.sampled_from(PRINCIPALS), max_size=2).map(tuple),
    readers=st.none() | st.sampled_from([("everyone",), ("user:ann",), ()]),
    field=st.none() | st.lists(st.sampled_from(PRINCIPALS), max_size=2).map(tuple),
    declared=st.none() | labels,
)
def test_a_result_is_labelled_as_the_policy_says_and_else_as_declared(
    source: tuple[str, ...] | None,
    readers: tuple[str, ...] | None,
    field: tuple[str, ...] | None,
    declared: Label | None,
) -> None:
    rule = ToolRule(source=source, readers=readers, fields={} if field is None else {"*.x": field})
    made = Tool("t", act.function, act.parameters, act.effect_class, True, NOBODY, declared)
    if readers is not None:
        allowed = PUBLIC if readers == ("everyone",) else Readers.of(*readers)
    else:
        allowed = Readers.of("user:o") if declared is None else declared.readers
    own = frozenset(source if source is not None else () if declared is None else declared.influencers)
    assert own_source(made, rule, "user:o", {}) == Label(own, allowed)
    assert field_labels(made, rule, "user:o") == ({} if field is None else {"*.x": Label(frozenset(field), allowed)})
    found = ruled(made, rule, "user:o")
    if rule == ToolRule():
        assert found is made
    else:
        assert found.source == Label(own | frozenset(field or ()), allowed)


@pytest.mark.parametrize(("said", "holds"), [(None, True), (True, True), (False, False)])
def test_what_the_policy_says_of_consequence_stands_above_the_declaration(said: bool | None, holds: bool) -> None:
    assert ruled(act, ToolRule(consequential=said), OWNER).consequential is holds


def test_undeclared_arguments_decide_what_is_done() -> None:
    assert (ToolRule().argument("x"), ArgumentRule().role) == (ArgumentRule(), "control")
    assert (ArgumentRule().endorsers, ArgumentRule().links) == ((), "keep")
    rule = ToolRule()
    assert (rule.ask, rule.audience, rule.declassifies, rule.control_endorsers) == ("never", None, False, ())
    assert (rule.source, rule.readers, rule.consequential, rule.cost) == (None, None, None, 0.0)
    policy = Policy()
    assert (policy.trusted, policy.processors, policy.closed) == (frozenset({OWNER}), frozenset(), False)
    assert (policy.links, policy.open_topics, policy.budget_bits, policy.run_cost) == (frozenset(), (), 256.0, None)
    assert policy.rule("x") == ToolRule()


@pytest.mark.parametrize("given_", ["ann", ["ann", "bob"], None, []])
def test_an_argument_names_its_audience(given_: Any) -> None:
    rule = ToolRule(audience=("argument:to", "cy"))
    names = given_ if isinstance(given_, list) else [given_] if given_ else []
    assert rule.audience_of({"to": given_}) == [*names, "cy"]
    assert ToolRule().audience_of({"to": given_}) is None


@pytest.mark.parametrize("given_", [1, ["ann", 1], {"a": 1}, [["ann"]]])
def test_an_argument_that_names_no_audience_denies(given_: Any) -> None:
    with pytest.raises(ValueError, match=r"argument:to names the audience, and is"):
        ToolRule(audience=("argument:to",)).audience_of({"to": given_})


def test_a_policy_in_its_simplest_form() -> None:
    policy = Policy.of(
        trusted=["a"], open_topics=["n/"], owner="a", processors=["p"], asks=["x"], asks_if_untrusted=["y"]
    )
    assert (policy.trusted, policy.open_topics, policy.owner) == (frozenset({"a"}), ("n/",), "a")
    assert policy.processors == frozenset({"p"})
    assert {name: rule.ask for name, rule in policy.tools.items()} == {"x": "always", "y": "if-untrusted"}
    assert (policy.is_open("n/1"), policy.is_open("m/1")) == (True, False)
    gateway = Gateway(policy, ToolRegistry())
    assert [gateway.asks(name) for name in ("x", "y", "z")] == [True, True, False]
    assert Policy.of() == Policy()


def test_the_version_is_a_digest_of_all_that_is_said() -> None:
    def never(name: str, arguments: Mapping[str, Any], label: Label) -> str | None:
        return None

    def always(name: str, arguments: Mapping[str, Any], label: Label) -> str | None:
        return "no"

    ways = [
        Policy(),
        Policy(closed=True),
        Policy(trusted=frozenset({"a", "b"})),
        Policy(checks=(never,)),
        Policy(checks=(always,)),
        Policy(tools={"x": ToolRule(ask="always")}),
        Policy(tools={"x": ToolRule(audience=())}),
    ]
    versions = [policy.version for policy in ways]
    assert len(set(versions)) == len(ways)
    assert {len(version) for version in versions} == {32}
    assert Policy(trusted=frozenset({"b", "a"})).version == ways[2].version


FAULTY = """
[endorsers.contact]
domain = "nowhere"
[endorsers.person]
type = "boolean"
[tools.send]
control_endorsers = ["ghost"]
[tools.send.arguments]
to = { role = "target", endorsers = ["spook", "person"] }
[answer]
endorsers = ["phantom"]
"""


def test_every_fault_of_a_policy_is_named() -> None:
    with pytest.raises(ValueError, match="names") as caught:
        Policy(tools={"send": ToolRule(control_endorsers=("names",))})
    assert "tools.send: no endorser is named 'names'" in str(caught.value)
    with pytest.raises(Exception, match="nowhere") as caught:
        read_policy(FAULTY)
    for fault in (
        "endorsers.contact: no domain is named 'nowhere'",
        "endorsers.person: the name stands for a person",
        "tools.send: no endorser is named 'ghost'",
        "tools.send: no endorser is named 'spook'",
        "answer: no endorser is named 'phantom'",
    ):
        assert fault in str(caught.value)
    assert "'person'" not in str(caught.value)


@tool(effect=EffectClass.IRREVERSIBLE, audience=PUBLIC, source=None)
def tell(to: str, text: str) -> str:
    return text


def decided(rule: ToolRule, *, control: Label, **labels_: Label) -> AllowCall | AskCall | Deny:
    gateway = Gateway(Policy(tools={"tell": rule}), ToolRegistry([tell]))
    arguments = {"to": "user:eve", "text": "see http://evil.example/a"}
    return gateway.decide("tell", arguments, control=control, labels=labels_)


@pytest.mark.parametrize("consequential", [True, False])
def test_declassification_needs_trusted_control_of_harmless_calls_too(consequential: bool) -> None:
    rule = ToolRule(consequential=consequential, declassifies=True, audience=("argument:to",))
    assert decided(rule, control=Label.trusted()).rule == "declassified"
    stranger = decided(rule, control=Label(frozenset({"mail"}), Readers.of(OWNER)))
    assert isinstance(stranger, Deny)
    assert (stranger.rule, stranger.telling) == (("integrity", False) if consequential else ("audience", True))
    others = decided(rule, control=Label.trusted("user:owner", Readers.of("user:ann")))
    assert isinstance(others, Deny), "what the owner may not read is not the owner's to let out"


def test_links_of_the_trusted_stay_and_those_of_strangers_do_not() -> None:
    arguments = {name: ArgumentRule(role="payload", links="defang") for name in ("text", "absent")}
    rule = ToolRule(audience=(), arguments=arguments)
    links = []
    for label in (Label.trusted(), Label(frozenset({"mail"}))):
        decision = decided(rule, control=Label.trusted(), text=label, absent=label)
        assert isinstance(decision, AllowCall)
        links.append(decision.arguments["text"])
    assert links == ["see http://evil.example/a", FANGLESS]
    kept = decided(ToolRule(audience=(), arguments={"text": ArgumentRule(role="payload")}), control=Label.trusted())
    assert isinstance(kept, AllowCall) and kept.arguments["text"] == links[0]


def test_an_address_outside_its_hosts_is_denied_and_the_reason_tells_it() -> None:
    rule = ToolRule(audience=(), arguments={"text": ArgumentRule(role="payload", hosts=("good.example",))})
    deny = decided(rule, control=Label.trusted())
    assert isinstance(deny, Deny)
    assert (deny.rule, deny.telling) == ("egress", True)


def test_policies_are_read_from_files_or_from_those_that_are_shipped(tmp_path: Path) -> None:
    path = tmp_path / "é.toml"
    path.write_text('owner = "user:zoë"', encoding="utf-8")
    assert load_policy(path).owner == "user:zoë"
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    for missing in (tmp_path / "absent.toml", tmp_path / "builtin.toml", tmp_path, tmp_path / "bad.toml"):
        with pytest.raises(PolicyFault, match=r"The policy .* cannot be read: "):
            load_policy(missing)
    with pytest.raises(PolicyFault, match=rf"{path.name}: "):
        path.write_text("closed = 3", encoding="utf-8")
        load_policy(path)


def test_processors_are_added_to_those_there_are() -> None:
    policy = Policy(processors=frozenset({"a"}), closed=True).with_processors(["b"])
    assert policy == Policy(processors=frozenset({"a", "b"}), closed=True)


def test_the_shipped_policies_are_found_by_name_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_policy(Path("builtin"))
    assert shipped.tools
    (tmp_path / "builtin").write_text("closed = true")
    assert load_policy(Path("builtin")) == Policy(closed=True)
