"""What a policy comes to: the verdicts on a tool's calls in the situations that its rules tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import ConfigDict, create_model

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import EXTERNAL, PUBLIC, Label, Readers
from agentsys.gateway import Allow, AskCall, Deny, Gateway
from agentsys.policy.policy import Policy
from agentsys.policy.rules import HOST, ToolRule, naming
from agentsys.policy.trials import Trial
from agentsys.tools import Tool, ToolRegistry

Verdict = Literal["deny", "ask", "allow"]

SOMEBODY: Final = "somebody"
_ANYTHING: Final = create_model("AnyArguments", __config__=ConfigDict(extra="allow"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call was decided, by which rule, and why where it was not allowed."""

    verdict: Verdict
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """Who shaped the caller and single arguments of a call, and who may read them."""

    text: str
    control: Label
    labels: Mapping[str, Label]


def outcome_of(policy: Policy, tool: str, arguments: Mapping[str, Any], control: Label, labels: Any) -> Outcome:
    """Decide about a call of a tool of which nothing is known but what the policy says."""
    gateway = Gateway(policy, ToolRegistry([_undeclared(tool)] if tool in policy.tools else []))
    decision = gateway.decide(tool, arguments, control=control, labels=labels)
    if isinstance(decision, Deny):
        return Outcome("deny", decision.rule, decision.reason)
    if isinstance(decision, AskCall):
        return Outcome("ask", decision.rule, decision.reason)
    assert isinstance(decision, Allow)
    return Outcome("allow", decision.rule)


def outcome_of_trial(policy: Policy, trial: Trial) -> Outcome:
    """Decide about the call of a trial."""
    whose = policy.owner, policy.trusted
    labels = {name: shape.label(*whose) for name, shape in trial.labels.items()}
    return outcome_of(policy, trial.tool, trial.arguments, trial.control.label(*whose), labels)


def fault_of(trial: Trial, outcome: Outcome) -> str | None:
    """Say how a trial came out otherwise than its author expects; ``None`` if it did not."""
    if outcome.verdict != trial.expect:
        return f"expected {trial.expect}, got {outcome.verdict} by rule {outcome.rule} {outcome.reason}".rstrip()
    if trial.rule is not None and trial.rule != outcome.rule:
        return f"expected rule {trial.rule}, got {outcome.rule}"
    return None


def situations(owner: str, rules: Sequence[ToolRule]) -> list[Situation]:
    """Return the situations that ``rules`` of one tool, under one policy or several, tell apart."""
    private = Label.trusted(owner)
    public, foreign = replace(private, readers=PUBLIC), replace(private, influencers=frozenset({EXTERNAL}))
    others = Label.trusted(owner, Readers.of("user:somebody-else"))
    found = [
        Situation("a trusted caller, public data", public, {}),
        Situation("a trusted caller, the owner's private data", private, {}),
        Situation("a caller whom strangers influenced", replace(foreign, readers=PUBLIC), {}),
    ]
    for by in _each(rule.control_endorsers for rule in rules):
        shaped = foreign.endorsed(by, 1.0)
        found.append(Situation(f"a caller whom strangers influenced through {by}", shaped, {}))
    for name in _each(rule.arguments for rule in rules):
        shapes = {"from strangers": foreign}
        endorsers = _each(rule.argument(name).endorsers for rule in rules)
        shapes |= {f"from strangers, through {by}": foreign.endorsed(by, 1.0) for by in endorsers}
        shapes["that only another person may read"] = others
        found += [Situation(f"{name} {text}", private, {name: label}) for text, label in shapes.items()]
    return found


def verdicts(policy: Policy, tool: str, others: Sequence[ToolRule] = ()) -> dict[str, Outcome]:
    """Return how the policy decides about a tool's calls, in all situations that it or ``others`` tell apart."""
    rules = [policy.rule(tool), *others]
    values = {name: _example(name, rule) for rule in [*others, policy.rule(tool)] for name in _arguments(rule)}
    cases = situations(policy.owner, rules)
    return {case.text: outcome_of(policy, tool, values, case.control, case.labels) for case in cases}


def _arguments(rule: ToolRule) -> list[str]:
    return _each([rule.arguments, filter(None, map(naming, rule.audience or ()))])


def _example(name: str, rule: ToolRule) -> str:
    """Return a value for an argument: an address where its host matters, one that the rule allows."""
    hosts = rule.argument(name).hosts
    if hosts:
        return f"https://{hosts[0].replace('*', SOMEBODY)}/"
    return f"https://{SOMEBODY}.example/" if f"{HOST}{name}" in (rule.audience or ()) else SOMEBODY


def _each(groups: Iterable[Iterable[str]]) -> list[str]:
    """Return every name once, in order."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _undeclared(name: str) -> Tool:
    return Tool(
        name=name,
        function=lambda **_: None,
        parameters=_ANYTHING,
        effect_class=EffectClass.IRREVERSIBLE,
        consequential=True,
        audience=PUBLIC,
        source=Label(),
    )
