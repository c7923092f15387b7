"""What a run tells a listener while it goes on. Events are for people watching; the record is on the board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened in a run.

    ``label`` says who may learn what the event tells beside its kind; without one, that is nothing to keep.
    """

    run: str
    label: Label | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class RunStarted(RunEvent):
    workflow: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class RequestPosted(RunEvent):
    round: str
    kind: str
    value: Json
    asked_by: str


@dataclass(frozen=True, slots=True)
class BidMade(RunEvent):
    """An agent volunteered; ``chosen`` says whether it will act."""

    round: str
    agent: str
    score: float
    reason: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Responded(RunEvent):
    round: str
    agent: str
    status: str


@dataclass(frozen=True, slots=True)
class RoundClosed(RunEvent):
    round: str
    outcome: str


@dataclass(frozen=True, slots=True)
class TokensStreamed(RunEvent):
    """A piece of a model's answer; ``tokens`` is how many tokens it holds (0 where the model does not say)."""

    agent: str
    call: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Decided(RunEvent):
    """The gateway allowed or denied a tool call or a board write."""

    agent: str
    action: str
    allowed: bool
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class ApprovalRequested(RunEvent):
    """A person is asked about a tool call (``kind`` "call") or a "question"; the agent waits."""

    approval: str
    agent: str
    kind: str
    subject: str
    arguments: Json
    reason: str


@dataclass(frozen=True, slots=True)
class ApprovalDecided(RunEvent):
    approval: str
    agent: str
    subject: str
    status: str
    decided_by: str
    note: str


@dataclass(frozen=True, slots=True)
class RunFinished(RunEvent):
    status: str


Listener = Callable[[RunEvent], None]
