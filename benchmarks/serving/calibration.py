"""What an engine can do: how long steps and calls alone take, how many workflows it serves a second."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from agentsys.benchmarks.serving.arms import Arm
from agentsys.benchmarks.serving.driver import Plan, run
from agentsys.benchmarks.serving.figures import RunResult
from agentsys.benchmarks.serving.pacing import Phase, Scale, completion_tokens, isolated_seconds, renamed, spec
from agentsys.serving.scheduling.step_time import StepTime, StepTimeFit
from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow
from agentsys.serving.simulator.workload import generate

_SEED: Final = 77_001  # of no measured trace
_GUESS: Final = StepTime(base=0.02, per_prefill=5e-4, per_sequence=2e-3, per_context=1e-6)
_SETTLE_SECONDS: Final = 0.5  # until an engine that reports its steps now and then has reported the last


@dataclass(frozen=True, slots=True)
class Calibration:
    """``step_time`` fits the engine's steps; ``capacity`` is workflows a second under a full queue.

    ``error`` is how far, in the mean, a workflow run alone was from what ``step_time`` says, as a share.
    """

    step_time: StepTime
    capacity: float
    error: float

    def call_seconds(self, call: TraceCall) -> float:
        """Return how long a call takes with the engine to itself; what calls share of a prompt is not counted off."""
        first = self.step_time.seconds(call.prompt_tokens, 0, call.prompt_tokens)
        context = call.prompt_tokens + call.completion_tokens / 2
        return first + (call.completion_tokens - 1) * self.step_time.seconds(0, 1, context)


@dataclass(slots=True)
class Measured:
    """What was measured: the lengths of workflows, the calibration, workflows a second, runs by arm and the scale that
    the arm was told in each."""

    lengths: Scale
    calibration: Calibration
    capacity: float
    runs: dict[str, list[RunResult]] = field(default_factory=dict)
    told: dict[str, list[float]] = field(default_factory=dict)


async def calibrate(arm: Arm, alone: int, together: int, scale: Scale) -> Calibration:
    """Run ``alone`` workflows one after another, then ``together`` at once; the arm's engine must time its steps."""
    before, _ = arm.engine.iterations()
    drawn = generate(spec(_SEED, alone + together, scale))
    singles = [Trace((one,)) for one in drawn.workflows[:alone]]
    latencies = [await _latency_alone(arm, single, f"alone-{index}", scale) for index, single in enumerate(singles)]
    capacity = await _capacity(arm, drawn.workflows[alone:], "together", scale)
    await asyncio.sleep(_SETTLE_SECONDS)
    _, steps = arm.engine.iterations(before)
    found = Calibration(StepTimeFit.of(steps, _GUESS).model, capacity, 0.0)
    expected = [next(iter(isolated_seconds(single, found.call_seconds).values())) for single in singles]
    error = fmean(abs(took / said - 1) for took, said in zip(latencies, expected, strict=True))
    return Calibration(found.step_time, capacity, error)


async def capacity_of(arm: Arm, workflows: int, name: str, scale: Scale) -> float:
    """Return how many workflows a second an arm serves under a full queue."""
    return await _capacity(arm, generate(spec(_SEED, workflows, scale)).workflows, name, scale)


async def _latency_alone(arm: Arm, single: Trace, name: str, scale: Scale) -> float:
    trace = renamed(_at_once(single), name)
    result = await run(arm.engine, arm.urgency, _plan(trace, scale), on_end=arm.ended)
    return result.outcomes[0].latency


async def _capacity(arm: Arm, workflows: Sequence[TraceWorkflow], name: str, scale: Scale) -> float:
    trace = renamed(_at_once(Trace(tuple(workflows))), name)
    result = await run(arm.engine, arm.urgency, _plan(trace, scale), on_end=arm.ended)
    return result.busy_rate() / fmean(map(completion_tokens, workflows))


def _at_once(trace: Trace) -> Trace:
    return trace.faster(math.inf)


def _plan(trace: Trace, scale: Scale) -> Plan:
    isolated = dict.fromkeys((one.workflow for one in trace.workflows), 1.0)
    return Plan(trace, isolated, [Phase(1.0, 1.0)], scale.told_tokens)
