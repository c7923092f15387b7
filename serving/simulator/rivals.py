"""Policies of the field, to compare ours with: each gives a call to a replica at once, and orders what waits there.

Formulas of HexGen-Flow: arXiv 2505.05286 and its public code, whose list of expected stages shrinks from query to
query; here each workflow has its kind's own, which is what the paper means. Attained service: the program-level
least-attained-service queue of Autellix (arXiv 2502.13965).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from agentsys.serving.requests import Usage
from agentsys.serving.scheduling.calls import Call, Decision, ReplicaSpec, Start
from agentsys.serving.scheduling.replicas import Replica
from agentsys.serving.simulator.cluster import alone
from agentsys.serving.simulator.profile import Stage, StageProfile
from agentsys.serving.simulator.torch_replica import EngineShape


def stage_of(call: Call) -> Stage:
    """Return what a call's mean lengths are known by."""
    return call.place.kind, call.place.stage


class Placement(Protocol):
    """Chooses a replica for a call that has just come."""

    def place(self, call: Call) -> int:
        """Return the replica's place in the list."""
        ...

    def ended(self, call_id: str) -> None:
        """Note that a call was answered."""
        ...


class RoundRobin:
    """One replica after another."""

    def __init__(self, specs: Sequence[ReplicaSpec]) -> None:
        self._count, self._next = len(specs), 0

    def place(self, _call: Call) -> int:
        self._next += 1
        return (self._next - 1) % self._count

    def ended(self, call_id: str) -> None:
        pass


class LeastWork:
    """The replica that has least to do, this call included: expected seconds of a fully used replica's time."""

    def __init__(self, specs: Sequence[ReplicaSpec], profile: StageProfile) -> None:
        self._replicas = [Replica(spec, place) for place, spec in enumerate(specs)]
        self._profile = profile
        self._backlog = [0.0] * len(specs)
        self._open: dict[str, tuple[int, float]] = {}

    def place(self, call: Call) -> int:
        typical = self._profile.typical(stage_of(call))
        works = [one.share(call.prompt_tokens, typical.completion_tokens) for one in self._replicas]
        chosen = min(range(len(works)), key=lambda place: self._backlog[place] + works[place])
        self._backlog[chosen] += works[chosen]
        self._open[call.call_id] = chosen, works[chosen]
        return chosen

    def ended(self, call_id: str) -> None:
        place, work = self._open.pop(call_id)
        self._backlog[place] -= work


class WorkloadBalance:
    """HexGen-Flow's dispatch: ``α · t_base/t_e − (1−α) · W_e/W_base``, the greatest wins.

    ``t_e`` is the stage's mean time at replica e, ``W_e`` all work it was ever given; the first is the base.
    """

    def __init__(self, seconds: Callable[[Call, int], float], replicas: int, alpha: float) -> None:
        self._seconds, self._alpha = seconds, alpha
        self._given = [0.0] * replicas

    def place(self, call: Call) -> int:
        times = [self._seconds(call, place) for place in range(len(self._given))]
        chosen = max(range(len(times)), key=lambda place: self._score(times, place)) if self._given[0] else 0
        self._given[chosen] += times[chosen]
        return chosen

    def ended(self, call_id: str) -> None:
        pass

    def _score(self, times: list[float], place: int) -> float:
        return self._alpha * times[0] / times[place] - (1 - self._alpha) * self._given[place] / self._given[0]


Key = Callable[[Call, int, float], float]
"""The order at a replica, smallest first, of a call, the replica's place and the time it came."""


@dataclass(slots=True, eq=False)
class EarlyBinding:
    """A core that places every call at once and never thinks again."""

    specs: Sequence[ReplicaSpec]
    placement: Placement
    key: Key
    attained: AttainedService | None = None
    _starts: list[Decision] = field(default_factory=list)

    def submit(self, call: Call, now: float) -> None:
        place = self.placement.place(call)
        self._starts.append(Start(call.call_id, self.specs[place].name, self.key(call, place, now)))

    def progressed(self, _call_id: str, _replica: str, _tokens: int, _now: float) -> list[Decision]:
        return []

    def ended(self, call_id: str, _replica: str, usage: Usage, _now: float) -> list[Decision]:
        self.placement.ended(call_id)
        if self.attained is not None:
            self.attained.serve(call_id.rpartition("/")[0], usage)
        return []

    def decide(self, _now: float) -> list[Decision]:
        starts, self._starts = self._starts, []
        return starts

    def next_wake(self, _now: float) -> float | None:
        return None

    def workflow_ended(self, workflow: str, now: float) -> None:
        pass


LEAST_QUANTUM_SECONDS: Final = 1.0


class AttainedService:
    """Workflows by the service they have had, in levels of doubling width, and within a level by arrival."""

    def __init__(self, price: Callable[[Usage], float]) -> None:
        self._price = price
        self._served: dict[str, float] = defaultdict(float)

    def serve(self, workflow: str, usage: Usage) -> None:
        """Count an answer."""
        self._served[workflow] += self._price(usage)

    def key(self, call: Call, _place: int, now: float) -> float:
        served = self._served[call.place.workflow] / LEAST_QUANTUM_SECONDS
        level = 0 if served < 1 else 1 + math.floor(math.log2(served))
        return level * 1e7 + now % 1e7


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What rivals work with: the replicas, their shape, and the training trace's means."""

    specs: Sequence[ReplicaSpec]
    shape: EngineShape
    profile: StageProfile

    def seconds(self, call: Call, place: int) -> float:
        """Return the stage's mean time alone at a replica."""
        return alone(self.specs[place].step_time, self.shape, self.profile.typical(stage_of(call)))


def by_arrival(_call: Call, _place: int, now: float) -> float:
    """First come, first served."""
    return now


def by_workflow_arrival(call: Call, _place: int, _now: float) -> float:
    """First come, first served, by workflows."""
    return call.place.arrived


def by_deadline(call: Call, _place: int, _now: float) -> float:
    """Earliest deadline first."""
    return call.place.deadline


def by_latest_start(profile: StageProfile) -> Key:
    """κ: the deadline less the mean path that remains, the call included."""

    def key(call: Call, _place: int, _now: float) -> float:
        stage = stage_of(call)
        return call.place.deadline - profile.own.get(stage, 0.0) - profile.path.get(stage, 0.0)

    return key


def by_stage_slack(knowledge: Knowledge) -> Key:
    """HexGen-Flow's urgency ``t_e − (B − waited)``, the greatest first.

    ``B = (SLO − used) · t̄ / (t̄ + Σ later t̄)`` is the stage's share of what the workflow has left when the call comes.
    It grows equally for all that wait, so the order by ``B + came − t_e`` is the same and never changes.
    """

    def key(call: Call, place: int, now: float) -> float:
        stage, places = stage_of(call), range(len(knowledge.specs))
        mean = sum(knowledge.seconds(call, one) for one in places) / len(places)
        # Times at all replicas keep their proportions, so later work is priced by the mean over them too.
        later = knowledge.profile.work.get(stage, 0.0) * mean / knowledge.profile.own.get(stage, mean)
        budget = (call.place.deadline - now) * mean / (mean + later)
        return budget + now - knowledge.seconds(call, place)

    return key
