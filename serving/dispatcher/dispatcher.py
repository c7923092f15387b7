"""One model over several engines, itself an engine: who asks it need not know that there are many.

What runs where and when is decided by :class:`~agentsys.serving.scheduling.dispatch.DispatchCore`; here its decisions
are carried out, replicas are watched and repaired, and each caller gets one answer or one error, whatever happens to
the replicas meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from weakref import WeakKeyDictionary

from agentsys.errors import ServingError
from agentsys.serving.dispatcher.answering import Answering, Copy
from agentsys.serving.dispatcher.embedding import embed_somewhere, embedding_call
from agentsys.serving.dispatcher.errors import DispatcherClosedError, ReplicaHangsError
from agentsys.serving.dispatcher.health import HealthLimits
from agentsys.serving.dispatcher.loops import LoopWakes
from agentsys.serving.dispatcher.overview import ReplicaView, combined, replica_view, total
from agentsys.serving.dispatcher.prompt_sizes import PromptSizes
from agentsys.serving.dispatcher.replica import Replica, ReplicaSource, blames_replica
from agentsys.serving.dispatcher.resumption import continuable, interrupted, movable
from agentsys.serving.dispatcher.watching import Watching
from agentsys.serving.engine import Capabilities, Engine, EngineStats, QueuedRequest, close_all
from agentsys.serving.engine_errors import DuplicateRequestError
from agentsys.serving.meanwhile import OnTheWay
from agentsys.serving.requests import (
    Chunk,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Usage,
    WorkflowCall,
    learners,
)
from agentsys.serving.scheduling.calls import Call, Cancel, Decision, Fail, Hedge, Move, Rekey, Start
from agentsys.serving.scheduling.dispatch import DispatchCore
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS, Policy
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.torch_engine.block_pool import domain_digest

OUTAGE_SECONDS = 10.0
"""How long calls wait for a replica where all are down."""

SINGLE = "(single)"
"""Kind of workflow of a call that belongs to none."""


_LOCKS: WeakKeyDictionary[WorkflowTable, threading.RLock] = WeakKeyDictionary()
"""Dispatchers that share their workflows share a lock: they may run on several event loops."""


class Dispatcher:
    """An engine made of replicas. Safe to call from any event loop, like every engine.

    A call waits here, in the order of its latest start time κ, until a replica that its label permits has room. A
    replica that fails or hangs loses its calls to others, and is asked again until it answers.
    """

    def __init__(
        self,
        sources: Iterable[ReplicaSource],
        *,
        limits: DispatchLimits | None = None,
        policy: Policy | None = None,
        health: HealthLimits | None = None,
        workflows: WorkflowTable | None = None,
    ) -> None:
        """Connect to the replicas, which blocks; those that fail are tried again later.

        ``workflows`` may be shared with the dispatchers of other models. Raises what the first replica raised if none
        can be connected to.
        """
        self._health = health or HealthLimits()
        self._replicas = {source.name: Replica(source, self._health) for source in sources}
        _connect(list(self._replicas.values()))
        specs = [one.spec() for one in self._replicas.values()]
        limits = limits or DispatchLimits(outage=OUTAGE_SECONDS)
        # Who waits for replicas that are down is told here, by the fault's own name.
        without_outage = replace(limits, outage=math.inf)
        self._core = DispatchCore(specs, policy=policy, limits=without_outage, workflows=workflows)
        self._calls: dict[str, Answering] = {}
        self._embedding = OnTheWay()
        self._sizes = PromptSizes()
        self._lock = _LOCKS.setdefault(self._core.workflows, threading.RLock())
        self._wakes = LoopWakes(self._act)
        self._watching = Watching(self._core, self._replicas, limits.outage, self._lock, now, self._wakes.soon)
        self._capabilities = combined([engine.capabilities() for engine in self._connected()])
        self._closed = False

    # The protocol of engines.

    def capabilities(self) -> Capabilities:
        """Return what every replica that was connected to at first can do."""
        return self._capabilities

    async def submit(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; closing the iterator aborts the request.

        Raises ``OverloadedError``, ``NoReplicaError``, ``UnknownAdapterError``, the errors of
        :mod:`agentsys.serving.dispatcher.errors`, and what the replica's engine raises about the request itself.
        """
        answering = self._admit(request)
        try:
            self._wakes.soon()
            while True:
                chunk = await answering.mailbox.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._leave(answering)
            await answering.closed()

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return a vector for each prompt; raises as :meth:`submit` does."""
        if self._closed:
            raise DispatcherClosedError("the dispatcher is closed.")
        self._wakes.begin()
        self._wakes.soon()
        try:
            call, limit = embedding_call(request, now()), self._health.attempts
            with self._embedding.coming(request.request_id) as told:
                return await embed_somewhere(request, call, self._replicas.values(), self._watching, limit, told)
        finally:
            self._wakes.end()

    def abort(self, request_id: str) -> None:
        if (answering := self._calls.get(request_id)) is not None:
            answering.on_loop(self._abort, answering)
            return
        self._embedding.abort(request_id)
        for engine in self._connected():  # requests for vectors have their own id there
            engine.abort(request_id)

    def rekey(self, request_id: str, urgency: float) -> None:
        """Move the deadline of the call's workflow; κ follows."""
        if (answering := self._calls.get(request_id)) is None:
            return
        with self._lock:
            self._hand_out(self._core.reschedule(request_id, urgency, now()))
        answering.on_loop(self._wakes.soon)

    def stats(self) -> EngineStats:
        """Return the load of all replicas together, and what waits for them."""
        return total([engine.stats() for engine in self._connected()], waiting=len(self._core.queue))

    def queue(self) -> tuple[QueuedRequest, ...]:
        """Return the calls by κ, with what their replicas tell of them."""
        told: dict[str, QueuedRequest] = {}
        for one in self._replicas.values():
            told |= {item.request_id: item for item in (one.engine.queue() if one.engine else None) or ()}
        with self._lock:
            entries = [(answering, self._core.calls.get(name)) for name, answering in self._calls.items()]
        rows = [answering.row(told, entry.key if entry else math.inf) for answering, entry in entries]
        return tuple(sorted(rows, key=lambda row: row.urgency))

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        """Return the steps of a single replica; several have no common number."""
        only = next(iter(self._replicas.values()))
        return (0, ()) if only.engine is None or len(self._replicas) > 1 else only.engine.iterations(after)

    async def close(self) -> None:
        """End every call with :class:`DispatcherClosedError` and close the engines."""
        self._closed = True
        for answering in list(self._calls.values()):
            answering.on_loop(self._fail, answering, DispatcherClosedError("the dispatcher was closed."))
        await self._watching.close()
        # One that is being loaded again would stay in memory with nobody to close it.
        engines = await asyncio.gather(*(asyncio.to_thread(one.retire) for one in self._replicas.values()))
        await close_all(engine for engine in engines if engine is not None)

    # What only a dispatcher has.

    def workflow_ended(self, workflow: str) -> None:
        """Note that a workflow makes no more calls."""
        with self._lock:
            self._core.workflow_ended(workflow, now())

    @property
    def workflows(self) -> WorkflowTable:
        """The workflows that its calls belong to."""
        return self._core.workflows

    def replicas(self) -> tuple[ReplicaView, ...]:
        """Return how each replica does."""
        return tuple(replica_view(one) for one in self._replicas.values())

    def _connected(self) -> list[Engine]:
        return [one.engine for one in self._replicas.values() if one.engine is not None]

    # Calls, from admission to their end.

    def _admit(self, request: GenerateRequest) -> Answering:
        if self._closed:
            raise DispatcherClosedError("the dispatcher is closed.")
        call = self._call(request)
        hopeless = self._watching.hopeless(call)
        if hopeless is not None:
            raise hopeless
        with self._lock:
            if request.request_id in self._calls:
                raise DuplicateRequestError(f"request {request.request_id!r} is still being answered.")
            self._core.submit(call, call.arrived)
            answering = self._calls[request.request_id] = Answering(request, call, self)
        self._wakes.begin()
        return answering

    def _call(self, request: GenerateRequest) -> Call:
        arrived = now()
        own = request.urgency if request.urgency < math.inf else None
        single = WorkflowCall(request.request_id, SINGLE, "call", "", request.urgency, arrived, own)
        place = request.call or single
        return Call(
            call_id=request.request_id,
            place=place,
            arrived=arrived,
            prompt_tokens=self._sizes.tokens(request.prompt),
            most_tokens=min(request.sampling.max_tokens, self._capabilities.context_length),
            domain=domain_digest(request.label.readers),
            readers=learners(request),
            adapter=request.adapter,
            movable=all(movable(request, engine) for engine in self._connected()),
            pinned=None if place.urgency is None else min(place.urgency, arrived + LONGEST_WAIT_SECONDS),
        )

    def _leave(self, answering: Answering) -> None:
        """Forget a call whose reader has all of it, or wants no more."""
        self._forget(answering)
        name = answering.request.request_id
        with self._lock:
            if self._calls.get(name) is answering:
                del self._calls[name]
            if answering.request.call is None:
                self._core.workflow_ended(name, now())
        self._wakes.end()

    def _forget(self, answering: Answering) -> None:
        with self._lock:
            self._core.aborted(answering.request.request_id, now())
        for copy in list(answering.copies.values()):
            self._drop(answering, copy)
        self._wakes.soon()

    def _fail(self, answering: Answering, error: ServingError) -> None:
        answering.mailbox.fail(error)
        self._forget(answering)

    def _abort(self, answering: Answering) -> None:
        answering.aborted()
        self._forget(answering)

    def _drop(self, answering: Answering, copy: Copy) -> None:
        copy.replica.in_flight -= 1
        copy.replica.unseen -= 0 if copy.tokens else copy.prompt_tokens
        answering.drop(copy)

    # Carrying out what was decided.

    def _act(self) -> float | None:
        """Watch the replicas, decide and carry out; returns when to do so again, in seconds."""
        self._look_after()
        with self._lock:
            decisions = self._core.decide(now())
            wake = self._core.next_wake(now())
        self._hand_out(decisions)
        return None if wake is None else max(wake - now(), 0.0)

    def _hand_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            answering = self._calls.get(decision.call_id)
            if answering is not None:
                answering.on_loop(self._carry_out, answering, decision)

    def _look_after(self) -> None:
        calls = list(self._calls.values())
        for one in self._watching.look():
            error = ReplicaHangsError(f"{one.name} showed no sign of life for longer than its work should take.")
            for answering in calls:
                copy = answering.copies.get(one.name)
                if copy is not None:
                    answering.on_loop(self.lost, answering, copy, error)
        for answering, stranded in self._watching.stranded(calls):
            answering.on_loop(self._fail, answering, stranded)

    def _carry_out(self, answering: Answering, decision: Decision) -> None:
        match decision:
            case Start(_, name, urgency) | Hedge(_, name, urgency):
                self._open(answering, self._replicas[name], urgency)
            case Move(_, source, target, urgency):
                self._move(answering, self._replicas[source], self._replicas[target], urgency)
            case Rekey(_, name, urgency):
                copy = answering.copies.get(name)
                if copy is not None and copy.replica.engine is not None:
                    copy.replica.engine.rekey(copy.engine_id, urgency)
            case Cancel(_, name):
                if name in answering.copies:
                    self._drop(answering, answering.copies[name])
            case Fail(_, error):
                self._fail(answering, error)

    def _open(self, answering: Answering, one: Replica, urgency: float) -> None:
        try:
            copy = answering.open(one, urgency)
        except ServingError as error:
            self._fail(answering, error)
            return
        if copy is not None:
            one.in_flight += 1
            one.unseen += copy.prompt_tokens
            one.silence.busy(time.monotonic())

    def _move(self, answering: Answering, source: Replica, target: Replica, urgency: float) -> None:
        if source.name in answering.copies:
            self._drop(answering, answering.copies[source.name])
        self._open(answering, target, urgency)

    # What the copies of a call report.

    def won(self, answering: Answering, copy: Copy) -> None:
        for other in [other for other in answering.copies.values() if other is not copy]:
            self._drop(answering, other)

    def progressed(self, answering: Answering, copy: Copy, *, first: bool) -> None:
        one = copy.replica
        one.fruitless = 0
        one.silence.sign(time.monotonic())
        if first:
            one.unseen -= copy.prompt_tokens
            one.note_start(time.perf_counter() - copy.started_at)
        with self._lock:
            self._core.progressed(answering.request.request_id, one.name, answering.shown.tokens, now())

    def ended(self, answering: Answering, copy: Copy, usage: Usage) -> None:
        one = copy.replica
        one.note_answer()
        one.silence.sign(time.monotonic())
        self._sizes.learn(answering.request.prompt, usage.prompt_tokens)
        with self._lock:
            self._core.ended(answering.request.request_id, one.name, usage, now())
            if not one.iteration:
                self._core.observe(one.name, copy.steps(usage))
        self._drop(answering, copy)
        self._wakes.soon()

    def lost(self, answering: Answering, copy: Copy, error: ServingError) -> None:
        if answering.copies.get(copy.replica.name) is not copy:
            return  # it ended, or was dropped, while this was on its way to its loop
        self._drop(answering, copy)
        if not blames_replica(error):
            if not copy.tokens:
                self._watching.doubt(copy.replica, error)
            self._fail(answering, error)
            return
        self._watching.blame(copy.replica, error)
        answering.failures += 1
        with self._lock:
            waits = self._core.lost(answering.request.request_id, copy.replica.name, now())
        if not continuable(answering.request, answering.shown, self._connected()):
            self._fail(answering, interrupted(answering.shown))
        elif waits and answering.failures >= self._health.attempts:
            self._fail(answering, error)
        self._wakes.soon()


_LEAP_SECONDS = 1.0
_ahead_of_steady = time.time() - time.monotonic()


def now() -> float:
    """Return unix seconds that never go back while the process lives.

    They go forward with the clock by which deadlines are given: after a machine slept, or its clock was set.
    """
    global _ahead_of_steady
    steady, ahead = time.monotonic(), time.time() - time.monotonic()
    if ahead > _ahead_of_steady + _LEAP_SECONDS:
        _ahead_of_steady = ahead
    return _ahead_of_steady + steady


def _connect(replicas: Sequence[Replica]) -> None:
    """Connect to all at once. Raises what the first raised if none can be connected to."""
    with ThreadPoolExecutor(max_workers=max(len(replicas), 1), thread_name_prefix="connect") as pool:
        for one, connecting in [(one, pool.submit(one.connect)) for one in replicas]:
            try:
                connecting.result()
            except ServingError as error:
                one.error = error
    if all(one.engine is None for one in replicas):
        raise next(one.error for one in replicas if one.error is not None)
