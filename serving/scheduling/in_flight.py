"""The dispatcher's bounds, and its record of a call in flight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from agentsys.serving.scheduling.calls import Call
from agentsys.serving.scheduling.replicas import Replica
from agentsys.serving.scheduling.stages import Demand
from agentsys.serving.scheduling.workflows import Workflow


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """Bounds of the dispatcher; durations in seconds.

    ``queue`` calls may wait, ``tenant`` calls of one tenant be in flight (0: no bound). A preemptive replica holds up
    to ``overcommit`` times its slots, and takes a call beyond them if it is more urgent by ``preemption_margin``
    and no slot gets free within ``preemption_wait``: a pause costs the other one more than a moment costs this one.
    ``rekey_margin`` is the least change of κ that replicas are told. ``triage`` passes between two looks at what can
    still be on time; ``reserved`` is the share of starts that what cannot gets nevertheless. The first ``lookahead``
    calls are all looked at for one that suits a free replica, and of those behind them fewer and fewer; if none
    wants it, the slot stays free for ``reconsider`` at least. Without any replica, calls fail after ``outage``.

    A call moves to an idle replica, ``moves`` times at most, if that saves ``move_margin`` and a third of what it still
    takes. It gets a second copy if its first token is ``hedge_after`` later than three times as long as expected;
    second copies may make ``hedge_share`` of all tokens.
    """

    queue: int = 10_000
    tenant: int = 0
    overcommit: float = 1.5
    preemption_margin: float = 0.1
    preemption_wait: float = 1.0
    rekey_margin: float = 0.25
    triage: float | None = 0.25
    reserved: float = 0.1
    lookahead: int = 4
    reconsider: float = 0.05
    outage: float = 30.0
    moves: int = 2
    move_margin: float = 1.0
    hedge_after: float = 1.0
    hedge_share: float = 0.05

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for bounds under which nothing would ever be placed."""
        for name, least in (("queue", 1), ("lookahead", 1), ("overcommit", 1.0), ("tenant", 0), ("moves", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(slots=True, eq=False)
class DispatchedCall:
    """A call in flight: ``at`` are the replicas that have a copy of it, ``pinned`` is a κ that stays."""

    call: Call
    workflow: Workflow
    tokens: float
    own: Demand
    key: float = math.inf
    pinned: float | None = None
    at: list[Replica] = field(default_factory=list)
    moves: int = 0
