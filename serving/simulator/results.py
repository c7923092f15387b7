"""What a simulated run came to."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from agentsys.serving.simulator.replica import ReplicaTotals


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One answered call; times are seconds from the trace's start."""

    workflow: str
    place: int
    stage: str
    tenant: str
    replica: str
    issued: float
    ended: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """One workflow; ``ended`` is infinite if it was refused or failed. ``isolated`` is its time on an idle cluster."""

    workflow: str
    kind: str
    tenant: str
    arrived: float
    ended: float
    deadline: float
    isolated: float
    tightness: float

    @property
    def on_time(self) -> bool:
        return self.ended <= self.deadline

    @property
    def latency(self) -> float:
        return self.ended - self.arrived

    @property
    def slowdown(self) -> float:
        """Latency as a multiple of the isolated time."""
        return self.latency / self.isolated

    @property
    def needed_scale(self) -> float:
        """The smallest scale of deadlines at which it would have been on time, had it run as it did."""
        return self.slowdown / self.tightness


@dataclass(slots=True)
class SimulationResult:
    """Records in order of end, and totals."""

    workflows: list[WorkflowRecord] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    replicas: dict[str, ReplicaTotals] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0

    @property
    def attainment(self) -> float:
        """Share of the workflows that met their deadlines."""
        return fmean(one.on_time for one in self.workflows)

    @property
    def throughput(self) -> float:
        """Workflows answered a second, from the first arrival to the last end."""
        return sum(math.isfinite(one.ended) for one in self.workflows) / self.seconds

    @property
    def worst_slowdown(self) -> float:
        return max(one.slowdown for one in self.workflows)

    @property
    def mean_latency(self) -> float:
        return fmean(one.latency for one in self.workflows)

    def latency(self, part: float) -> float:
        """Return the latency that a ``part`` of the workflows do not exceed."""
        return quantile([one.latency for one in self.workflows], part)

    def fairness(self) -> float:
        """Return Jain's index over the tenants' mean speed (isolated time over latency): 1 is equal."""
        speeds: dict[str, list[float]] = defaultdict(list)
        for one in self.workflows:
            speeds[one.tenant].append(one.isolated / one.latency)
        return jain([fmean(values) for values in speeds.values()])

    def busy(self) -> Mapping[str, float]:
        """Return each replica's busy share of the run."""
        return {name: totals.busy_seconds / self.seconds for name, totals in self.replicas.items()}

    def summary(self) -> Mapping[str, float]:
        """Return the figures that tables show."""
        return {
            "attainment": self.attainment,
            "throughput": self.throughput,
            "mean": self.mean_latency,
            "p50": self.latency(0.5),
            "p95": self.latency(0.95),
            "p99": self.latency(0.99),
            "worst_slowdown": self.worst_slowdown,
            "jain": self.fairness(),
            "preemptions": float(sum(totals.preemptions for totals in self.replicas.values())),
        }


def quantile(values: Iterable[float], part: float) -> float:
    """Return the smallest value that at least ``part`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)]


def jain(values: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 if all are equal, 1/n if one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
