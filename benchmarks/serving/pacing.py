"""Seeded traces whose load goes up and down, and their deadlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow
from agentsys.serving.simulator.workload import WorkloadSpec, generate

LOADS: Final = (0.6, 0.8, 1.0, 1.1, 0.9, 0.7)
"""Shares of the measured capacity that arrive, one phase after the other."""

CONTEXT_TOKENS: Final = 300.0  # before scaling
_MORE_THAN_ENOUGH: Final = 2.0


@dataclass(frozen=True, slots=True)
class Scale:
    """What lengths of prompts and answers and tools' seconds are multiplied by, and the most tokens of a call."""

    lengths: float
    tools: float
    most_tokens: int

    @property
    def told_tokens(self) -> int:
        """What every request asks for at most, as far as whoever schedules it can see."""
        return self.most_tokens * 3 // 4


CPU_SCALE: Final = Scale(lengths=0.06, tools=0.3, most_tokens=600)
"""So that a small model on a CPU serves a workflow a second or so."""

GPU_SCALE: Final = Scale(lengths=0.3, tools=0.3, most_tokens=3000)


@dataclass(frozen=True, slots=True)
class Phase:
    """``seconds`` during which ``load`` of the capacity arrives."""

    seconds: float
    load: float


def phases(seconds: float, loads: Sequence[float] = LOADS) -> list[Phase]:
    """Return phases of equal length, ``seconds`` together."""
    return [Phase(seconds / len(loads), load) for load in loads]


def spec(seed: int, workflows: int, scale: Scale) -> WorkloadSpec:
    """Return the workload of one seed."""
    return WorkloadSpec(
        workflows=workflows,
        rate=1.0,
        length_scale=scale.lengths,
        tool_scale=scale.tools,
        context_tokens=CONTEXT_TOKENS,
        most_tokens=scale.most_tokens,
        seed=seed,
    )


def paced(seed: int, plan: Sequence[Phase], capacity: float, scale: Scale) -> Trace:
    """Draw workflows whose arrivals are a Poisson process of ``load × capacity`` workflows a second in each phase.

    Arrivals of rate one are stretched and squeezed, so that one seed draws the same workflows at any capacity.
    """
    expected = sum(phase.seconds * phase.load for phase in plan) * capacity
    drawn = generate(spec(seed, int(_MORE_THAN_ENOUGH * expected) + 20, scale)).workflows
    timed = ((one, _time_of(one.arrived, plan, capacity)) for one in drawn)
    return Trace(tuple(replace(one, arrived=at) for one, at in timed if at is not None))


def renamed(trace: Trace, prefix: str) -> Trace:
    """Return the trace with other workflow names, and thereby other tokens of the same lengths.

    So that no run finds the prompts of the run before in the prefix cache; what a kind of workflow shares stays.
    """
    return Trace(tuple(replace(one, workflow=f"{prefix}:{one.workflow}") for one in trace.workflows))


def load_at(arrived: float, plan: Sequence[Phase]) -> float:
    """Return the load of the phase in which a workflow came."""
    for phase in plan:
        if arrived < phase.seconds:
            return phase.load
        arrived -= phase.seconds
    return plan[-1].load


def isolated_seconds(trace: Trace, call_seconds: Callable[[TraceCall], float]) -> dict[str, float]:
    """Return how long each workflow takes with the engine to itself."""
    return {one.workflow: one.critical_path(call_seconds) for one in trace.workflows}


def completion_tokens(workflow: TraceWorkflow) -> int:
    return sum(call.completion_tokens for call in workflow.calls)


def _time_of(expected: float, plan: Sequence[Phase], capacity: float) -> float | None:
    begun = 0.0
    for phase in plan:
        share = phase.seconds * phase.load * capacity
        if expected < share:
            return begun + expected / (phase.load * capacity)
        expected -= share
        begun += phase.seconds
    return None
