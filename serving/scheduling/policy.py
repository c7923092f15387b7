"""In which order calls are served, and which replica is best for one: the two functions that policies differ in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol


@dataclass(slots=True)  # made for every decision, and frozen ones take three times as long to make
class CallFacts:
    """What a policy may know of a call. Times are unix seconds, durations and demands seconds.

    ``path`` and ``work`` remain of the whole workflow, this call included; ``own`` is the call alone on the fastest
    idle replica. ``attained`` is the work done for the workflow so far. ``lead`` is what its tenant has had more than
    the least served one. ``demoted``: triage gave the
    workflow up and put its ``deadline`` off.
    """

    arrived: float
    workflow_arrived: float
    deadline: float
    path: float
    work: float
    own: float
    attained: float
    lead: float
    demoted: bool
    prompt_tokens: int
    expected_tokens: float


@dataclass(slots=True)
class Option:
    """One replica as a place for a call; all but ``batch`` and ``slots`` in seconds.

    ``wait`` passes before a slot is free and ``backlog`` while more urgent prompts are computed, ``prefill`` and
    ``decode`` follow. ``harm`` is the delay that the call gives to those there that are more urgent, all together,
    ``delay`` what it gives to the others. ``replica`` is its place in the list of all.
    """

    replica: int
    wait: float
    backlog: float
    prefill: float
    decode: float
    harm: float
    delay: float
    batch: int
    slots: int

    @property
    def finish(self) -> float:
        """Seconds until the call has ended there."""
        return self.wait + self.backlog + self.prefill + self.decode


class Policy(Protocol):
    """Smaller comes first, in both functions.

    ``early`` policies give a call to a replica when it comes, whether it has a free slot or not; the others leave it
    in the common queue until a replica that they prefer has one.
    """

    @property
    def early(self) -> bool:
        """Whether calls go to a replica at once."""
        ...

    def key(self, call: CallFacts, now: float) -> float:
        """Return the call's place in the order of service; engines get it as κ."""
        ...

    def cost(self, call: CallFacts, option: Option, now: float) -> float:
        """Return how bad a replica is for the call."""
        ...


LONGEST_WAIT_SECONDS: Final = 600.0
"""However unhurried a call is, it falls due then, for dispatchers and for engines."""


@dataclass(frozen=True, slots=True)
class UrgencyPolicy:
    """Ours: the latest start time κ = deadline − remaining critical path, and the replica where least is late by it.

    ``longest_wait`` bounds κ by the call's arrival, so nobody starves: calls without a deadline count as due then. The
    workflow's arrival would not do: calls of one that has gone on for longer would go before every deadline.
    ``fairness`` is by how many seconds κ moves for each second that the tenant was served more than the least served.

    A call's part of the time that its workflow has left is as large as its part of the path. What goes beyond that
    counts whole, what stays within only by ``haste``: calls with time to spare leave the fast replicas to others.
    ``harm`` weighs the delay of those that are more urgent, ``delay`` that of all others.
    """

    longest_wait: float = LONGEST_WAIT_SECONDS
    fairness: float = 0.2
    haste: float = 0.1
    harm: float = 0.5
    delay: float = 0.1
    early: bool = False

    def key(self, call: CallFacts, now: float) -> float:
        latest = call.arrived + self.longest_wait
        if math.isinf(call.deadline):
            return latest
        return min(call.deadline - call.path + self.fairness * call.lead, latest)

    def cost(self, call: CallFacts, option: Option, now: float) -> float:
        part = (min(call.deadline, now + self.longest_wait) - now) * call.own / max(call.path, call.own, 1e-9)
        late = max(option.finish - max(part, 0.0), 0.0)
        own = self.haste * option.finish + (1 - self.haste) * late
        return own + self.harm * option.harm + self.delay * option.delay


@dataclass(frozen=True, slots=True)
class ArrivalPolicy:
    """The field's default: first come, first served, at the replica with the least to do."""

    early: bool = True

    def key(self, call: CallFacts, now: float) -> float:
        return call.arrived

    def cost(self, call: CallFacts, option: Option, now: float) -> float:
        return option.wait + option.batch / option.slots
