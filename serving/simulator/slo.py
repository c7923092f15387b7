"""The scale of deadlines at which a policy keeps its promises, and the choice of each policy's best setting.

The SLO scale at q is the smallest scale at which a share q of the workflows is on time, with deadlines told at that
scale. A policy that looks at deadlines has to be run at each scale anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from agentsys.serving.simulator.cluster import Cluster
from agentsys.serving.simulator.contenders import RIVALS, Contender, rival
from agentsys.serving.simulator.profile import StageProfile
from agentsys.serving.simulator.results import SimulationResult, WorkflowRecord, quantile
from agentsys.serving.simulator.trace import Trace
from agentsys.serving.simulator.workload import WorkloadSpec, generate

STEP: Final = 1.03
"""Scales are tried on a geometric grid this fine."""

_GREATEST_PLACE: Final = 180  # of the grid, a scale of two hundred

Progress = Callable[[str], None]


def silent(_what: str) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Runs:
    """One contender on some traces, at each scale once. ``results`` are by place on the grid of scales."""

    contender: Contender
    traces: Sequence[Trace]
    cluster: Cluster
    progress: Progress = silent
    results: dict[int, list[SimulationResult]] = field(default_factory=dict)

    def at(self, place: int) -> list[SimulationResult]:
        """Return the results at scale ``STEP ** place``."""
        if place not in self.results:
            self.progress(f"{self.contender.name}, scale {STEP**place:.2f}")
            self.results[place] = [self.contender.run(one, self.cluster, STEP**place) for one in self.traces]
        return self.results[place]

    def workflows(self, place: int) -> list[WorkflowRecord]:
        return [record for result in self.at(place) for record in result.workflows]

    def attainment(self, place: int) -> float:
        return fmean(record.on_time for record in self.workflows(place))

    def slo_scale(self, part: float) -> float:
        """Return the SLO scale at ``part``."""
        if not self.contender.uses_deadlines:
            return quantile([record.needed_scale for record in self.workflows(0)], part)
        low, high = 0, _GREATEST_PLACE
        while low < high:
            middle = (low + high) // 2
            if self.attainment(middle) >= part:
                high = middle
            else:
                low = middle + 1
        return STEP**high


def best(contenders: Iterable[Contender], trace: Trace, cluster: Cluster, scale: float) -> Contender:
    """Return the one that does best on a training trace: its 95th percentile of scales needed, told ``scale``."""

    def needed(contender: Contender) -> float:
        result = contender.run(trace, cluster, scale)
        return quantile([record.needed_scale for record in result.workflows], 0.95)

    return min(contenders, key=needed)


def capacity(cluster: Cluster, slots: int, *, workflows: int = 300, seed: int = 0) -> float:
    """Return the workflows a second that a cluster ends while it is saturated, placed by least work.

    All come at once; the rate is taken between a fifth and four fifths of them.
    """
    trace = generate(WorkloadSpec(workflows=workflows, rate=1e6, seed=seed))
    build, preemptive = RIVALS["least work, FCFS"]
    profile = StageProfile.of(trace, cluster.call_seconds)
    result = rival("capacity", build, profile, slots, preemptive=preemptive).run(trace, cluster, 1.0)
    ends = sorted(record.ended for record in result.workflows)
    first, last = workflows // 5, 4 * workflows // 5
    return (last - first) / (ends[last] - ends[first])
