"""Runs a trace's workflows against an engine: each call when what it needs is there, exact lengths, real clock."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentsys.benchmarks.serving.figures import Outcome, RunResult
from agentsys.benchmarks.serving.pacing import Phase, load_at
from agentsys.errors import ServingError
from agentsys.serving.engine import Engine
from agentsys.serving.requests import GenerateRequest, SamplingParams, WorkflowCall
from agentsys.serving.simulator.trace import Trace, TraceWorkflow, Unfolding

LENGTH_TAG: Final = "answer tokens"
"""The tag of a request that names the exact length of its answer; see ``ExactLengths`` in ``arms``."""

VOCABULARY: Final = 40_000  # below that of every model that is measured

Urgency = Callable[[WorkflowCall, float], float]
"""κ of a call that comes now, in unix seconds, from its place in its workflow."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: a trace, its workflows' isolated seconds, its phases; deadlines are ``told_scale`` × tightness ×
    isolated seconds after arrival. Requests ask for ``told_tokens`` at most."""

    trace: Trace
    isolated: Mapping[str, float]
    phases: Sequence[Phase]
    told_tokens: int
    told_scale: float = 1.0

    def deadline(self, workflow: TraceWorkflow) -> float:
        """Return the seconds from the trace's start by which a workflow is wanted."""
        return workflow.arrived + self.told_scale * workflow.tightness * self.isolated[workflow.workflow]


@dataclass(slots=True)
class _Run:
    engine: Engine
    urgency: Urgency
    begun: float = field(default_factory=time.time)
    preemptions: int = 0
    answered: list[tuple[float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def run(
    engine: Engine, urgency: Urgency, plan: Plan, *, on_end: Callable[[str], None] = lambda workflow: None
) -> RunResult:
    """Run the trace to its end and return what came of it; ``on_end`` hears of each workflow's end.

    Raises :class:`ServingError` if more than a few workflows failed, since then nothing was measured.
    """
    state = _Run(engine, urgency)
    tasks = [asyncio.create_task(_workflow(state, plan, one, on_end)) for one in plan.trace.workflows]
    outcomes = await asyncio.gather(*tasks)
    if len(state.failures) > len(outcomes) // 50:
        raise ServingError(f"{len(state.failures)} of {len(outcomes)} workflows failed, the first: {state.failures[0]}")
    seconds = time.time() - state.begun - plan.trace.workflows[0].arrived
    return RunResult(tuple(outcomes), seconds, state.preemptions, tuple(state.answered))


async def _workflow(state: _Run, plan: Plan, workflow: TraceWorkflow, on_end: Callable[[str], None]) -> Outcome:
    await asyncio.sleep(state.begun + workflow.arrived - time.time())
    unfolding = Unfolding(workflow)
    failed = False
    try:
        await _unfold(state, plan, unfolding, unfolding.begin())
    except* ServingError as errors:
        state.failures.append(str(errors.exceptions[0]))
        failed = True
    latency = math.inf if failed else time.time() - state.begun - workflow.arrived
    on_end(workflow.workflow)
    return Outcome(
        workflow=workflow.workflow,
        tenant=workflow.tenant,
        tightness=workflow.tightness,
        load=load_at(workflow.arrived, plan.phases),
        isolated=plan.isolated[workflow.workflow],
        latency=latency,
    )


async def _unfold(state: _Run, plan: Plan, unfolding: Unfolding, ready: Sequence[tuple[int, float]]) -> None:
    async with asyncio.TaskGroup() as group:

        async def step(place: int, seconds: float) -> None:
            await asyncio.sleep(seconds)
            await _call(state, plan, unfolding.workflow, place)
            for following in unfolding.ended(place):
                group.create_task(step(*following))

        for first in ready:
            group.create_task(step(*first))


async def _call(state: _Run, plan: Plan, workflow: TraceWorkflow, place: int) -> None:
    call = workflow.calls[place]
    in_workflow = WorkflowCall(
        workflow=workflow.workflow,
        kind=workflow.kind,
        stage=call.stage,
        tenant=workflow.tenant,
        deadline=state.begun + plan.deadline(workflow),
        arrived=state.begun + workflow.arrived,
    )
    request = GenerateRequest(
        workflow.prompt(place, VOCABULARY),
        SamplingParams(max_tokens=plan.told_tokens, ignore_eos=True),
        urgency=state.urgency(in_workflow, time.time()),
        call=in_workflow,
        tags={LENGTH_TAG: str(call.completion_tokens)},
    )
    answered = 0
    async for chunk in state.engine.submit(request):
        answered += len(chunk.token_ids)
        state.answered.append((time.time(), len(chunk.token_ids)))
        if chunk.usage is not None:
            state.preemptions += chunk.usage.preemptions
    if answered != call.completion_tokens:
        raise ServingError(f"an answer of {call.completion_tokens} tokens came with {answered}.")
