"""Labels, policies, tools and calls at random."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from pydantic import create_model

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, OWNER, PUBLIC, EndorsedInfluence, Label, Readers
from agentsys.gateway import AllowCall, AskCall, Deny, Gateway
from agentsys.policy.domains import Domain
from agentsys.policy.endorsers import Endorser
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ArgumentRule, ToolRule
from agentsys.tools import Tool, ToolRegistry

PEOPLE = [OWNER, "user:ann"]
PRINCIPALS = [*PEOPLE, "mail", "web"]
ENDORSERS = ["contact", "amount"]
ARGUMENTS = ["what", "to", "text"]
PARAMETERS = create_model("arguments", what=(str, ...), to=(str, ...), text=(str, ""))
ADDRESSES = ["user:ann", "user:eve"]

readers = st.one_of(st.just(PUBLIC), st.frozensets(st.sampled_from([*PEOPLE, "user:eve", "server"])).map(Readers))
capacities = st.one_of(st.just(math.inf), st.sampled_from([0.0, 1.0, 64.0]))
endorsements = st.frozensets(
    st.builds(EndorsedInfluence, st.sampled_from([*ENDORSERS, "person", "nobody's"]), st.sampled_from(PRINCIPALS)),
    max_size=2,
)
labels = st.builds(Label, st.frozensets(st.sampled_from(PRINCIPALS), max_size=3), readers, capacities, endorsements)
trusted_labels = st.sampled_from([Label.trusted(), Label.trusted(OWNER, PUBLIC), Label(frozenset(), PUBLIC, 0.0)])
often_trusted = st.one_of(trusted_labels, labels)

audiences = st.none() | st.lists(
    st.sampled_from(["argument:to", "argument:absent", "everyone", "server", *ADDRESSES]), max_size=2
).map(tuple)
argument_rules = st.builds(
    ArgumentRule,
    role=st.sampled_from(["control", "target", "payload"]),
    endorsers=st.lists(st.sampled_from(ENDORSERS), max_size=2).map(tuple),
    links=st.sampled_from(["keep", "defang"]),
)
tool_rules = st.builds(
    ToolRule,
    consequential=st.none() | st.booleans(),
    ask=st.sampled_from(["never", "if-untrusted", "always"]),
    audience=audiences,
    declassifies=st.booleans(),
    control_endorsers=st.lists(st.sampled_from(ENDORSERS), max_size=2).map(tuple),
    arguments=st.dictionaries(st.sampled_from(ARGUMENTS), argument_rules),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return Policy(
        trusted=draw(st.frozensets(st.sampled_from([*PRINCIPALS]), max_size=2)) | {OWNER},
        processors=draw(st.sampled_from([frozenset[str](), frozenset({"server"})])),
        tools=draw(st.dictionaries(st.just("act"), tool_rules)),
        closed=draw(st.booleans()),
        domains={"people": Domain(values=("user:ann", "user:bob"))},
        endorsers={
            "contact": Endorser(domain="people"),
            "amount": Endorser(type="number", minimum=0, maximum=10),
        },
        links=draw(st.sampled_from([frozenset[str](), frozenset({"good.example"})])),
    )


@st.composite
def tools(draw: st.DrawFn) -> Tool:
    return Tool(
        name="act",
        function=lambda **_: None,
        parameters=PARAMETERS,
        effect_class=EffectClass.IRREVERSIBLE,
        consequential=draw(st.booleans()),
        audience=draw(readers),
        source=None,
    )


@dataclass(frozen=True)
class Call:
    """A proposed call under a policy, before any decision."""

    policy: Policy
    tool: Tool
    arguments: dict[str, Any]
    control: Label
    labels: dict[str, Label]

    def decide(self) -> AllowCall | AskCall | Deny:
        gateway = Gateway(self.policy, ToolRegistry([self.tool]))
        return gateway.decide("act", self.arguments, control=self.control, labels=self.labels)

    def label_of(self, part: str) -> Label:
        return self.control if part == "control" else self.labels.get(part, Label(frozenset(), PUBLIC, 0.0))

    def with_label(self, part: str, label: Label) -> Call:
        if part == "control":
            return replace(self, control=label)
        return replace(self, labels={**self.labels, part: label})


@st.composite
def calls(draw: st.DrawFn) -> Call:
    arguments = {"what": "pay", "to": draw(st.sampled_from(ADDRESSES)), "text": "see http://evil.example/a"}
    return Call(
        draw(policies()),
        draw(tools()),
        arguments,
        draw(often_trusted),
        draw(st.dictionaries(st.sampled_from(ARGUMENTS), often_trusted)),
    )


@st.composite
def calls_by_trusted(draw: st.DrawFn) -> Call:
    """Calls of a consequential tool that tells nobody, by somebody whom nobody influenced, to whom anybody may say."""
    rule = ToolRule(
        consequential=True, audience=(), arguments={"to": ArgumentRule(role="target", endorsers=("contact",))}
    )
    policy = draw(policies()).model_copy(update={"tools": {"act": rule}, "closed": False})
    return Call(policy, draw(tools()), {"what": "pay", "to": "x"}, BOTTOM, {"to": draw(labels)})


def rank(decision: AllowCall | AskCall | Deny) -> int:
    """Return how much a decision permits."""
    return 2 if isinstance(decision, AllowCall) else 1 if isinstance(decision, AskCall) else 0
