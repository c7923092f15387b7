"""From when workflows ended to what is compared: SLO scales, attainment, fairness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from agentsys.serving.simulator.results import jain, quantile


@dataclass(frozen=True, slots=True)
class Outcome:
    """One workflow; seconds. ``latency`` is infinite if it failed, ``load`` the share of capacity that came then.

    ``isolated`` is its time with the engine to itself, ``tightness`` the multiple of that by which it is wanted.
    """

    workflow: str
    tenant: str
    tightness: float
    load: float
    isolated: float
    latency: float

    @property
    def slowdown(self) -> float:
        """Latency as a multiple of the isolated time."""
        return self.latency / self.isolated

    @property
    def needed_scale(self) -> float:
        """The smallest scale of all deadlines at which it is on time, as it ran."""
        return self.slowdown / self.tightness


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run of a trace: outcomes, seconds from the first arrival to the last end, preemptions.

    ``answered`` has the time of each piece of an answer and its tokens, in order.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    preemptions: int
    answered: tuple[tuple[float, int], ...]

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.answered)

    @property
    def throughput(self) -> float:
        """Answered tokens a second."""
        return self.tokens / self.seconds

    def busy_rate(self, begin: float = 0.1, end: float = 0.7) -> float:
        """Return the tokens a second between two shares of all tokens, where a run that got all its work at once has
        enough of it to fill every slot."""
        edges: list[tuple[float, int]] = []
        so_far = 0
        for at, count in self.answered:
            so_far += count
            if so_far >= (begin, end)[len(edges)] * self.tokens:
                edges.append((at, so_far))
                if len(edges) == 2:
                    break
        (began, before), (ended, after) = edges
        return (after - before) / (ended - began)


def slo_scale(outcomes: Iterable[Outcome], part: float = 0.95) -> float:
    """Return the smallest scale of deadlines at which at least ``part`` of the workflows were on time."""
    return quantile([one.needed_scale for one in outcomes], part)


def attainment(outcomes: Sequence[Outcome], scale: float) -> float:
    """Return the share of workflows on time at a scale of deadlines."""
    return fmean(one.needed_scale <= scale for one in outcomes)


def tenant_fairness(outcomes: Iterable[Outcome]) -> float:
    """Return Jain's index over the tenants' mean speed, the isolated time over the latency."""
    speeds: dict[str, list[float]] = defaultdict(list)
    for one in outcomes:
        speeds[one.tenant].append(1 / one.slowdown)
    return jain([fmean(values) for values in speeds.values()])


def by_load(outcomes: Iterable[Outcome]) -> dict[float, list[Outcome]]:
    """Group outcomes by the load at which they came, the lowest first."""
    groups: dict[float, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.load].append(one)
    return dict(sorted(groups.items()))
