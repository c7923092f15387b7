"""Who orders the calls: vLLM's or torch's own order, vLLM's priority with simple keys, and ours."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentsys.benchmarks.serving.driver import LENGTH_TAG, Urgency
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Capabilities, Engine, EngineStats, QueuedRequest
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, GenerateRequest, WorkflowCall
from agentsys.serving.scheduling.step_time import Iteration


@dataclass(frozen=True, slots=True)
class Arm:
    """``engine`` answers; ``urgency`` is κ of a call without a dispatcher. ``told`` arms know the deadlines.

    ``ended`` is told the name of a workflow that has ended.
    """

    name: str
    engine: Engine
    urgency: Urgency
    told: bool = False
    ended: Callable[[str], None] = lambda workflow: None


def no_hurry(_call: WorkflowCall, _now: float) -> float:
    return math.inf


def by_arrival(call: WorkflowCall, _now: float) -> float:
    return call.arrived


def by_deadline(call: WorkflowCall, _now: float) -> float:
    return call.deadline


class ExactLengths:
    """An engine whose answers end after the tokens that a request's tags name.

    So whoever orders the calls sees the same bound on every answer, and cannot read its length off the request.
    """

    def __init__(self, engine: Engine) -> None:
        self.inner = engine

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        length = request.tags.get(LENGTH_TAG)  # what asks whether an engine is well has none
        if length is not None:
            request = replace(request, sampling=replace(request.sampling, max_tokens=int(length)))
        return self.inner.submit(request)

    def abort(self, request_id: str) -> None:
        self.inner.abort(request_id)

    def rekey(self, request_id: str, urgency: float) -> None:
        self.inner.rekey(request_id, urgency)

    def stats(self) -> EngineStats:
        return self.inner.stats()

    def queue(self) -> tuple[QueuedRequest, ...] | None:
        return self.inner.queue()

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        return self.inner.iterations(after)

    async def embed(self, request: EmbedRequest) -> Embedding:
        return await self.inner.embed(request)

    async def close(self) -> None:
        await self.inner.close()


def ours(engine: Engine, slots: int) -> Arm:
    """Return the arm with our dispatcher in front of an engine that preempts; it learns as it goes."""
    dispatcher = Dispatcher([ReplicaSource("engine", ExactLengths(engine), slots=slots)])
    return Arm("ours", dispatcher, no_hurry, told=True, ended=dispatcher.workflow_ended)


def baselines(engines: Mapping[str, Engine]) -> list[Arm]:
    """Return the arms without our dispatcher, for the policies in ``engines``: "fcfs", "priority"."""
    arms = [Arm("fcfs", ExactLengths(engines["fcfs"]), no_hurry)]
    if "priority" in engines:
        arms.append(Arm("arrival", ExactLengths(engines["priority"]), by_arrival))
        arms.append(Arm("edf", ExactLengths(engines["priority"]), by_deadline, told=True))
    return arms
