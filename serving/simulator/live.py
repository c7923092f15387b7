"""Runs a trace in real time on a real engine: what the simulator is compared with, and what a new policy must pass."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Engine
from agentsys.serving.requests import GenerateRequest, SamplingParams, WorkflowCall
from agentsys.serving.scheduling.policy import Policy
from agentsys.serving.simulator.trace import Trace, TraceWorkflow, Unfolding
from agentsys.serving.torch_engine.engine import TorchEngine

VOCABULARY: Final = 40_000
GATE_REPLICAS: Final = 2
GATE_SLOTS: Final = 2
GATE_TOLERANCE: Final = 1.1
_GATE_SCALE: Final = 4.0
_KV_BYTES: Final = 128 * 2**20

Due = Callable[[TraceWorkflow], float]
"""Seconds from a workflow's arrival to its deadline."""

Serve = Callable[[Policy], Sequence[float]]
"""Serves a trace under a policy and returns each workflow's latency over the time it had."""


async def serve_live(
    engine: Engine, trace: Trace, due: Due, *, dispatched: bool, vocabulary: int = VOCABULARY
) -> list[float]:
    """Return each workflow's latency in seconds, in order of arrival. Prompts are of token ids below ``vocabulary``.

    A dispatcher (``dispatched``) is told where calls stand in their workflows, an engine the deadline as κ.
    """
    began = time.time()

    async def run(workflow: TraceWorkflow) -> float:
        arrived = began + workflow.arrived
        deadline = arrived + due(workflow)
        await asyncio.sleep(max(arrived - time.time(), 0.0))
        unfolding = Unfolding(workflow)

        async def answer(place: int, wait: float) -> None:
            await asyncio.sleep(wait)
            stage = workflow.calls[place].stage
            where = WorkflowCall(workflow.workflow, workflow.kind, stage, workflow.tenant, deadline, arrived)
            request = GenerateRequest(
                workflow.prompt(place, vocabulary),
                SamplingParams(max_tokens=workflow.calls[place].completion_tokens, ignore_eos=True),
                urgency=math.inf if dispatched else deadline,
                call=where if dispatched else None,
            )
            async for _chunk in engine.submit(request):
                pass
            await asyncio.gather(*(answer(*ready) for ready in unfolding.ended(place)))

        await asyncio.gather(*(answer(*ready) for ready in unfolding.begin()))
        return time.time() - arrived

    return await asyncio.gather(*(run(workflow) for workflow in trace.workflows))


@dataclass(frozen=True, slots=True)
class GateResult:
    """Mean lateness (latency over the time until the deadline) under the policy in use and under the new one."""

    before: float
    after: float

    @property
    def passed(self) -> bool:
        """Whether the new policy is no worse, but for what two runs of one policy may differ by."""
        return self.after <= self.before * GATE_TOLERANCE


def gate(serve: Serve, before: Policy, after: Policy, ran: Callable[[], None] = lambda: None) -> GateResult:
    """Serve under both policies, in the order before, after, after, before; ``ran`` is called after each run."""

    def lateness(policy: Policy) -> float:
        value = fmean(serve(policy))
        ran()
        return value

    first, second, third, fourth = (lateness(policy) for policy in (before, after, after, before))
    return GateResult(fmean((first, fourth)), fmean((second, third)))


def on_torch(folder: Path, trace: Trace, token_seconds: float, *, vocabulary: int = VOCABULARY) -> Serve:
    """Return what serves a trace on two torch engines behind a dispatcher, new ones for each policy.

    ``folder`` has the model; deadlines are four times the tightness times what answers take at ``token_seconds`` each.
    """

    def due(workflow: TraceWorkflow) -> float:
        path = workflow.critical_path(lambda call: token_seconds * call.completion_tokens)
        return _GATE_SCALE * workflow.tightness * path

    async def serve(policy: Policy) -> list[float]:
        load = partial(TorchEngine.load, folder, kv_cache_bytes=_KV_BYTES, max_batch=GATE_SLOTS, drafter=None)
        sources = [ReplicaSource(f"torch-{number}", load, GATE_SLOTS) for number in range(GATE_REPLICAS)]
        dispatcher = await asyncio.to_thread(Dispatcher, sources, policy=policy)
        try:
            return await serve_live(dispatcher, trace, due, dispatched=True, vocabulary=vocabulary)
        finally:
            await dispatcher.close()

    def lateness(policy: Policy) -> list[float]:
        latencies = asyncio.run(serve(policy))
        return [latency / due(one) for latency, one in zip(latencies, trace.workflows, strict=True)]

    return lateness
