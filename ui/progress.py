"""What the events of a run say so far, in the order in which they came. Nothing here depends on Streamlit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentsys.blackboard.entries import Json
from agentsys.protocols.http.schemas import EventDocument


@dataclass(frozen=True, slots=True)
class Offer:
    """An agent that volunteered."""

    agent: str
    score: float
    reason: str
    chosen: bool

    def text(self, status: str | None) -> str:
        """Return the offer as one line; ``status`` is how the agent responded, if it did."""
        became = {None: "chosen" if self.chosen else "not chosen", "ok": "answered"}.get(status, status)
        return f"{self.agent} volunteered with {self.score:.2f}: {self.reason} ({became})"


@dataclass(slots=True)
class OpenRound:
    """A request and its bids; ``answered`` maps agents to how they responded, ``outcome`` is empty while it is open."""

    id: str
    kind: str
    value: Json
    asked_by: str
    offers: list[Offer] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    outcome: str = ""


@dataclass(slots=True)
class StreamedCall:
    """A model call, as far as its answer has come."""

    id: str
    agent: str
    text: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class GatewayDecision:
    """What the gateway decided about one action."""

    agent: str
    action: str
    allowed: bool
    rule: str
    reason: str


@dataclass(slots=True)
class AskedApproval:
    """A person was asked; ``status`` is "pending" until the word came, ``note`` came with it."""

    id: str
    agent: str
    subject: str
    arguments: Json
    reason: str
    status: str = "pending"
    decided_by: str = ""
    note: str = ""


Step = OpenRound | StreamedCall | GatewayDecision | AskedApproval


class RunProgress:
    """Grows with a run's events; ``after`` is the number of the last one."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.after = 0
        self.steps: list[Step] = []

    @property
    def tokens(self) -> int:
        """Tokens that models wrote so far."""
        return sum(step.tokens for step in self.steps if isinstance(step, StreamedCall))

    @property
    def awaited(self) -> list[AskedApproval]:
        """What waits for a person's word."""
        return [step for step in self.steps if isinstance(step, AskedApproval) and step.status == "pending"]

    def take(self, events: Iterable[EventDocument]) -> None:
        """Add events; one that was taken before changes nothing."""
        for event in events:
            if event.number > self.after:
                self.after = event.number
                self._add(event.type, event.data)

    def _add(self, kind: str, data: Mapping[str, Any]) -> None:
        match kind:
            case "request_posted":
                self.steps.append(OpenRound(data["round"], data["kind"], data["value"], data["asked_by"]))
            case "bid_made":
                offer = Offer(data["agent"], data["score"], data["reason"], data["chosen"])
                self._round(data["round"]).offers.append(offer)
            case "responded":
                self._round(data["round"]).answered[data["agent"]] = data["status"]
            case "round_closed":
                self._round(data["round"]).outcome = data["outcome"]
            case "tokens_streamed":
                call = self._call(data["call"], data["agent"])
                call.text += data["text"]
                call.tokens += data["tokens"]
            case "decided":
                decided = (data["agent"], data["action"], data["allowed"], data["rule"], data["reason"])
                self.steps.append(GatewayDecision(*decided))
            case "approval_requested":
                asked = (data["approval"], data["agent"], data["subject"], data["arguments"], data["reason"])
                self.steps.append(AskedApproval(*asked))
            case "approval_decided":
                self._decide(data)

    def _decide(self, data: Mapping[str, Any]) -> None:
        for step in self.steps:
            if isinstance(step, AskedApproval) and step.id == data["approval"]:
                step.status, step.decided_by, step.note = data["status"], data["decided_by"], data["note"]

    def _round(self, id: str) -> OpenRound:
        # Of a long run the server may have dropped the event that opened the round.
        for step in self.steps:
            if isinstance(step, OpenRound) and step.id == id:
                return step
        opened = OpenRound(id, "", None, "")
        self.steps.append(opened)
        return opened

    def _call(self, id: str, agent: str) -> StreamedCall:
        for step in reversed(self.steps):
            if isinstance(step, StreamedCall) and step.id == id:
                return step
        call = StreamedCall(id, agent)
        self.steps.append(call)
        return call
