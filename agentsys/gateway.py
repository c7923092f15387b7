"""The gateway decides about every tool call and every board write before it happens. What no rule allows is denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from agentsys import topics
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import BOTTOM, Label, Readers, join_all
from agentsys.errors import AgentsysError, LabelError
from agentsys.policy.addresses import egress_fault
from agentsys.policy.endorsers import PERSON
from agentsys.policy.links import defang
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ToolRule, readers_of
from agentsys.ruling import ruled
from agentsys.secrets import NO_SECRETS, Secrets
from agentsys.threads import call_foreign, within
from agentsys.tools import Tool, ToolRegistry

CHECK_SECONDS: Final = 5.0
"""How long a check in Python may take; one that takes longer denies."""


class PolicyDenied(LabelError):
    """The gateway refused a call, a write or a release; ``rule`` is the name of what decided."""

    code = "AGS-0310"
    remedy = "Let trusted data decide about it, or widen the policy or the declaration if it should be allowed."

    def __init__(self, message: str, *, rule: str = "audience") -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Allow:
    rule: str


@dataclass(frozen=True, slots=True)
class AllowCall(Allow):
    """An allowed call of ``tool`` with its validated ``arguments``."""

    tool: Tool
    arguments: dict[str, Json]


@dataclass(frozen=True, slots=True)
class AskCall:
    """A person decides about a call of ``tool`` with its validated ``arguments``."""

    rule: str
    reason: str
    tool: Tool
    arguments: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Deny:
    """``telling``: the reason follows from what the arguments are, not only from their labels."""

    rule: str
    reason: str
    telling: bool = False


Decision = Allow | Deny


@dataclass(frozen=True, slots=True)
class Proposal:
    """A call that somebody wants to make: ``control`` is the caller's label, ``labels`` are of single arguments.

    ``fault`` says why there are no arguments that the tool can take.
    """

    tool: Tool
    rule: ToolRule
    arguments: dict[str, Json]
    control: Label
    labels: Mapping[str, Label]
    fault: str | None = None

    @property
    def label(self) -> Label:
        return join_all([self.control, *self.labels.values()])


class Gateway:
    """Decides by policy on the control label (of everything delivered to the caller) and on the arguments' labels."""

    def __init__(self, policy: Policy, tools: ToolRegistry, secrets: Secrets = NO_SECRETS) -> None:
        self.policy = policy
        self.tools = tools
        self.secrets = secrets
        self._ruled: dict[str, tuple[Tool, Policy, Tool]] = {}

    async def judge(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        control: Label,
        labels: Mapping[str, Label],
        fault: str | None = None,
    ) -> AllowCall | AskCall | Deny:
        """Decide about a call once its source, where it has one, knows the tool; checks that take too long deny.

        A ``fault`` is why there is no value for one of the arguments.
        """
        try:
            await self.tools.find(name)
        except AgentsysError as error:
            return Deny("unavailable-tool", self.secrets.text(str(error)))
        given: dict[str, Any] = {"control": control, "labels": labels, "fault": fault}
        if not self.policy.checks:
            return self.decide(name, arguments, **given)
        try:
            decided: AllowCall | AskCall | Deny
            decided = await within(CHECK_SECONDS, call_foreign(self.decide, name, arguments, **given))
            return decided
        except TimeoutError:
            return Deny("check-timed-out", f"a check of the policy took more than {CHECK_SECONDS:g} s")

    def decide(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        control: Label,
        labels: Mapping[str, Label],
        fault: str | None = None,
    ) -> AllowCall | AskCall | Deny:
        """Decide about a call of tool ``name``; ``labels`` are of the arguments that carry their own.

        A ``fault`` is why there is no value for one of them. Never raises: an error in the check is a denial.
        """
        try:
            proposal = self._proposal(name, dict(arguments), control, labels, fault)
            decided = proposal if isinstance(proposal, Deny) else self._decide_call(proposal)
            # A reason may quote an argument, and a secret's value may stand there by mistake.
            return replace(decided, reason=self.secrets.text(decided.reason)) if isinstance(decided, Deny) else decided
        except Exception as error:
            return Deny("error-in-check", self.secrets.text(f"{type(error).__name__}: {error}"), telling=True)

    def tool(self, name: str, arguments: object = None) -> Tool | None:
        """Return a tool as the policy has it, for calls with ``arguments``: its word stands above the tool's own."""
        declared, policy = self.tools.get(name), self.policy
        rule = policy.rule(name)
        if declared is None or rule.sources:
            return None if declared is None else ruled(declared, rule, policy.owner, arguments)
        known = self._ruled.get(name)
        if known is None or known[0] is not declared or known[1] is not policy:
            known = self._ruled[name] = (declared, policy, ruled(declared, rule, policy.owner))
        return known[2]

    def asks(self, name: str) -> bool:
        """Whether a person may have to decide about calls of tool ``name``."""
        return self.policy.rule(name).ask != "never"

    def decide_write(self, topic: str, label: Label) -> Decision:
        """Decide about a write of ``topic`` whose entry will carry ``label``."""
        if topics.is_reserved(topic):
            return Deny("reserved-topic", f"the topic {topic!r} holds the runtime's own record")
        if self.policy.is_open(topic):
            return Allow("open-topic")
        if not self.policy.trusts(label, (PERSON,)):
            intruders = self._intruders(label, (PERSON,))
            return Deny("write-integrity", f"{intruders} would shape the shared topic {topic!r}")
        return Allow("trusted-write")

    def decide_disclosure(self, what: str, label: Label, audience: Readers) -> Decision:
        """Decide whether data with ``label`` may become known to ``audience``."""
        if self.policy.permits(label, audience):
            return Allow("audience")
        return Deny(
            "audience", f"{what} would disclose to {_names(audience)} what only {_names(label.readers)} may read"
        )

    def decide_question(self, what: str, label: Label) -> Decision:
        """Decide whether one of the approvers, who answer for all people, may be shown ``what``."""
        asking, approvers = f"asking about {what}", sorted(self.policy.approvers)
        decisions = [self.decide_disclosure(asking, label, Readers.of(name)) for name in approvers]
        nobody = Deny("audience", f"{asking} would ask nobody: no approver may read it")
        return next((found for found in decisions if isinstance(found, Allow)), nobody)

    def _proposal(
        self,
        name: str,
        arguments: dict[str, Any],
        control: Label,
        labels: Mapping[str, Label],
        fault: str | None = None,
    ) -> Proposal | Deny:
        tool = self.tool(name)
        if tool is None:
            return Deny(
                "unknown-tool", f"no tool is named {name!r}; there are {', '.join(self.tools.names()) or 'none'}"
            )
        if self.policy.closed and name not in self.policy.tools:
            return Deny("unlisted-tool", f"the policy is closed and says nothing of {name}")
        rule, validated = self.policy.rule(name), dict[str, Json]()
        if fault is None:
            try:
                validated = tool.arguments(arguments)
            except ValidationError as error:
                fault = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        return Proposal(tool, rule, validated, control, labels, None if fault is None else f"{name}: {fault}")

    def _decide_call(self, proposal: Proposal) -> AllowCall | AskCall | Deny:
        """Decide by the labels alone as far as they go, and only then by what the arguments are.

        Whoever is shown the first kind of denial and not the second learns nothing of what the arguments are.
        """
        tool, rule = proposal.tool, proposal.rule
        intruded = self._check_influence(proposal)
        untrusted = intruded if tool.consequential else None
        if untrusted is not None and rule.ask == "never":
            return untrusted
        asked = untrusted is not None or rule.ask == "always"
        disclosing = self._check_audience(proposal, decided=asked or intruded is None)
        if isinstance(disclosing, Deny) and not disclosing.telling:
            return disclosing
        shown = self.decide_question(f"a call of {tool.name}", proposal.label) if asked else disclosing
        refused = next((found for found in (shown, disclosing) if isinstance(found, Deny)), None)
        refused = refused or self._check_arguments(proposal)
        if refused is not None:
            return refused
        arguments = self._without_links(proposal)
        if untrusted is not None:
            return AskCall("ask-if-untrusted", untrusted.reason, tool, arguments)
        if asked:
            return AskCall("ask", f"the policy asks before every call of {tool.name}", tool, arguments)
        if disclosing.rule == "declassified":
            return AllowCall("declassified", tool, arguments)
        return AllowCall("consequential" if tool.consequential else "harmless", tool, arguments)

    def _check_influence(self, proposal: Proposal) -> Deny | None:
        """Say who untrusted shaped whether the call is made, what it does, or to whom; a payload is anybody's."""
        rule, name = proposal.rule, proposal.tool.name
        parts = [("the caller", proposal.control, rule.control_endorsers)]
        for part, label in proposal.labels.items():
            argument = rule.argument(part)
            if argument.role != "payload":
                parts.append((f"its argument '{part}'", label, (*argument.endorsers, PERSON)))
        for part, label, endorsers in parts:
            if not self.policy.trusts(label, endorsers):
                intruders = self._intruders(label, endorsers)
                return Deny("integrity", f"{name} is consequential and {intruders} shaped {part}")
        return None

    def _check_audience(self, proposal: Proposal, *, decided: bool) -> Decision:
        """Decide whether all parts of a call may become known to whom the call tells them.

        The owner lets out what is the owner's where the rule declassifies, and it is ``decided`` by trusted principals
        or the owner's own word that it goes, and where. Source: robust declassification (Zdancewic, CSFW 2001).
        """
        audience = _audience(proposal)
        declassifies, rule = proposal.rule.declassifies and decided, "audience"
        for part, label in [("the caller", proposal.control), *proposal.labels.items()]:
            if self.policy.permits(label, audience):
                continue
            if not (declassifies and self.policy.owner_may_read(label)):
                disclosure = self.decide_disclosure(f"{proposal.tool.name}, through {part},", label, audience)
                # Whom an argument names follows from what it is.
                telling = proposal.rule.audience is not None
                return replace(disclosure, telling=telling) if isinstance(disclosure, Deny) else disclosure
            rule = "declassified"
        return Allow(rule)

    def _check_arguments(self, proposal: Proposal) -> Deny | None:
        """Say what of the arguments themselves, whoever shaped them, denies the call."""
        tool, arguments = proposal.tool, proposal.arguments
        if proposal.fault is not None:
            return Deny("bad-arguments", proposal.fault, telling=True)
        named = tool.secrets_in(arguments)
        if named or self.secrets.declared:
            refused = self.secrets.refusal(tool.name, named, _audience(proposal)) or self.secrets.fault(arguments)
            if refused is not None:
                return Deny("secret", refused, telling=True)
        leading = egress_fault(proposal.rule, arguments)
        if leading is not None:
            return Deny("egress", leading, telling=True)
        for check in self.policy.checks:
            reason = check(tool.name, arguments, proposal.label)
            if reason is not None:
                return Deny("check", reason, telling=True)
        return None

    def _without_links(self, proposal: Proposal) -> dict[str, Json]:
        """Return the arguments, with links made inactive in payloads that strangers shaped."""
        arguments = dict(proposal.arguments)
        for part, value in arguments.items():
            if proposal.rule.argument(part).links == "keep":
                continue
            # What a caller writes itself is shaped by all that the caller saw.
            if not self.policy.trusts(proposal.control.join(proposal.labels.get(part, BOTTOM))):
                arguments[part] = defang(value, self.policy.links)
        return arguments

    def _intruders(self, label: Label, endorsers: tuple[str, ...] = ()) -> str:
        unaccepted = [fact for fact in label.endorsements if fact.endorser not in endorsers]
        through = {f"{fact.influencer} (through {fact.endorser})" for fact in unaccepted}
        return ", ".join(sorted((label.influencers - self.policy.trusted) | through))


def _audience(proposal: Proposal) -> Readers:
    """Return who learns the arguments of a call."""
    told = proposal.rule.audience_of(proposal.arguments)
    return proposal.tool.audience if told is None else readers_of(told)


def _names(readers: Readers) -> str:
    if readers.members is None:
        return "everyone"
    return ", ".join(sorted(readers.members)) or "nobody"
