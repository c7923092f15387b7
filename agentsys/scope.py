"""Everything that the parts of one run share."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol

from agentsys.agenda import Agenda
from agentsys.agents import AgentRegistry, Request
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import EntryVersionRef
from agentsys.blackboard.labels import Readers
from agentsys.blackboard.resolution import Policies
from agentsys.events import Listener, RunEvent
from agentsys.gateway import Gateway
from agentsys.journal import Journal, Mode
from agentsys.memoisation import Memoisation
from agentsys.models import Model
from agentsys.rounds import RoundOutcome
from agentsys.secrets import NO_SECRETS, Secrets
from agentsys.serving.requests import WorkflowCall

PATIENCE = 600.0
"""Seconds after its start by which a run without a deadline counts as due: it waits behind tight deadlines, and yet
its urgency grows, so that it cannot starve."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """A posted request with the bounds of its round; ``seq`` is the commit that posted it, timeouts in seconds.

    ``known`` are the versions of entries that the request was made from.
    """

    request: Request
    seq: int
    timeout: float | None
    max_volunteers: int
    known: tuple[EntryVersionRef, ...] = ()


class RunRound(Protocol):
    """Brings a round to its end. Returns the outcome and the commit that closed the round."""

    def __call__(self, posted: Round) -> Awaitable[tuple[RoundOutcome, int]]: ...


@dataclass(slots=True)
class RunScope:
    """One execution of one run. ``started`` and ``deadline`` are unix seconds.

    What a person is asked expires after ``approval_seconds``, or never. With an ``audience``, agents see of the board
    only what all of that may read. ``tenant`` is whose share of the models it uses.
    """

    board: Board
    journal: Journal
    model: Model
    gateway: Gateway
    agents: AgentRegistry
    agenda: Agenda
    started: float
    deadline: float | None
    max_volunteers: int
    memo: Memoisation
    conflicts: Policies = field(default_factory=dict)
    approval_seconds: float | None = None
    audience: Readers | None = None
    listener: Listener | None = None
    secrets: Secrets = NO_SECRETS
    workflow: str = ""
    tenant: str = ""
    run_round: RunRound = field(init=False)

    @property
    def run(self) -> str:
        return self.journal.run

    @property
    def replaying(self) -> bool:
        return self.journal.mode is Mode.REPLAY

    def urgency(self, deadline: float | None = None) -> float:
        """Return κ, the latest start in unix seconds, for whoever knows nothing of the rest of the workflow.

        The remaining critical path counts as nothing then, which leaves the deadline.
        """
        bounds = [bound for bound in (deadline, self.deadline) if bound is not None]
        return min(bounds, default=self.started + PATIENCE)

    def place(self, stage: str, deadline: float | None = None) -> WorkflowCall:
        """Return where a model call stands, from which a dispatcher works out its κ; ``stage`` is who makes it."""
        bounds = [bound for bound in (deadline, self.deadline) if bound is not None]
        due = min(bounds, default=math.inf)
        return WorkflowCall(self.run, self.workflow, stage, self.tenant, due, self.started)

    def emit(self, event: RunEvent) -> None:
        """Tell the listener; a listener that fails does not fail the run."""
        if self.listener is None:
            return
        try:
            self.listener(event)
        except Exception:
            _log.exception("a listener of run %s failed on %s", self.run, type(event).__name__)
