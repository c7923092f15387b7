"""The gateway decides about every tool call and every board write before it happens. What no rule allows is denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agentsys import topics
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label, Readers, join_all
from agentsys.errors import AgentsysError, LabelError
from agentsys.policy import Policy
from agentsys.tools import Tool, ToolRegistry


class PolicyDenied(LabelError):
    """The gateway refused a call, a write or a release."""

    code = "AGS-0310"
    remedy = "Let trusted data decide about it, or widen the policy or the declaration if it should be allowed."


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
    rule: str
    reason: str


Decision = Allow | Deny


class Gateway:
    """Decides by policy on the control label (of everything delivered to the caller) and on the arguments' labels."""

    def __init__(self, policy: Policy, tools: ToolRegistry) -> None:
        self.policy = policy
        self.tools = tools

    def decide(
        self, name: str, arguments: Mapping[str, Any], *, control: Label, labels: Mapping[str, Label]
    ) -> AllowCall | AskCall | Deny:
        """Decide about a call of tool ``name``; ``labels`` are of the arguments that carry their own.

        Never raises: an error in the check is a denial.
        """
        try:
            return self._decide_call(name, dict(arguments), [("the caller", control), *labels.items()])
        except Exception as error:
            return Deny("error-in-check", f"{type(error).__name__}: {error}")

    def asks(self, name: str) -> bool:
        """Whether a person may have to decide about calls of tool ``name``."""
        return name in self.policy.asks or name in self.policy.asks_if_untrusted

    async def prepare(self, name: str) -> Deny | None:
        """Let the tool's source, where it has one, learn of it; of one that cannot be had, return the denial."""
        try:
            await self.tools.find(name)
        except AgentsysError as error:
            return Deny("unavailable-tool", str(error))
        return None

    def decide_write(self, topic: str, label: Label) -> Decision:
        """Decide about a write of ``topic`` whose entry will carry ``label``."""
        if topics.is_reserved(topic):
            return Deny("reserved-topic", f"the topic {topic!r} holds the runtime's own record")
        if self.policy.is_open(topic):
            return Allow("open-topic")
        if not self.policy.trusts(label):
            return Deny("write-integrity", f"{self._intruders(label)} would shape the shared topic {topic!r}")
        return Allow("trusted-write")

    def decide_disclosure(self, what: str, label: Label, audience: Readers) -> Decision:
        """Decide whether data with ``label`` may become known to ``audience``."""
        if self.policy.permits(label, audience):
            return Allow("audience")
        return Deny(
            "audience", f"{what} would disclose to {_names(audience)} what only {_names(label.readers)} may read"
        )

    def _decide_call(
        self, name: str, arguments: dict[str, Any], labels: list[tuple[str, Label]]
    ) -> AllowCall | AskCall | Deny:
        tool = self.tools.get(name)
        if tool is None:
            return Deny(
                "unknown-tool", f"no tool is named {name!r}; there are {', '.join(self.tools.names()) or 'none'}"
            )
        try:
            validated = tool.arguments(arguments)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            return Deny("bad-arguments", f"{name}: {faults}")
        untrusted = self._check_influence(tool, labels)
        if untrusted is not None and name not in self.policy.asks_if_untrusted:
            return untrusted
        disclosing = self._check_audience(tool, labels)
        if disclosing is not None:
            return disclosing
        if untrusted is not None or name in self.policy.asks:
            return self._ask(tool, validated, labels, untrusted)
        return AllowCall("consequential" if tool.consequential else "harmless", tool, validated)

    def _ask(
        self, tool: Tool, arguments: dict[str, Json], labels: list[tuple[str, Label]], untrusted: Deny | None
    ) -> AskCall | Deny:
        shown = self.decide_question(f"a call of {tool.name}", join_all(label for _, label in labels))
        if isinstance(shown, Deny):
            return shown
        if untrusted is not None:
            return AskCall("ask-if-untrusted", untrusted.reason, tool, arguments)
        return AskCall("ask", f"the policy asks before every call of {tool.name}", tool, arguments)

    def decide_question(self, what: str, label: Label) -> Decision:
        """Decide whether the owner, who answers for all people, may be shown ``what``."""
        return self.decide_disclosure(f"asking about {what}", label, Readers.of(self.policy.owner))

    def _check_influence(self, tool: Tool, labels: list[tuple[str, Label]]) -> Deny | None:
        if tool.consequential:
            for part, label in labels:
                if not self.policy.trusts(label):
                    reason = f"{tool.name} is consequential and {self._intruders(label)} shaped {part}"
                    return Deny("integrity", reason)
        return None

    def _check_audience(self, tool: Tool, labels: list[tuple[str, Label]]) -> Deny | None:
        for part, label in labels:
            disclosure = self.decide_disclosure(f"{tool.name}, through {part},", label, tool.audience)
            if isinstance(disclosure, Deny):
                return disclosure
        return None

    def _intruders(self, label: Label) -> str:
        return ", ".join(sorted(label.influencers - self.policy.trusted))


def _names(readers: Readers) -> str:
    if readers.members is None:
        return "everyone"
    return ", ".join(sorted(readers.members)) or "nobody"
