"""Watching replicas: taking those that fail or hang out of use, and asking them again until they answer."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from agentsys.errors import ServingError
from agentsys.serving.dispatcher.answering import Answering
from agentsys.serving.dispatcher.errors import (
    DispatcherClosedError,
    ReplicaFailedError,
    ReplicaHangsError,
    ReplicasDownError,
)
from agentsys.serving.dispatcher.health import Breaker
from agentsys.serving.dispatcher.loops import TICK
from agentsys.serving.dispatcher.replica import (
    Replica,
    foreign_errors_blamed,
    is_fatal,
    pause_of,
    refuses_all,
    without_content,
)
from agentsys.serving.engine_errors import EngineClosedError, EngineFailedError, RequestFailedError
from agentsys.serving.openai_engine import RemoteOverloadedError
from agentsys.serving.scheduling.calls import Call
from agentsys.serving.scheduling.dispatch import DispatchCore


class Watching:
    """The health of a dispatcher's replicas. ``clock`` returns seconds that never go back, and may leap forward."""

    def __init__(
        self,
        core: DispatchCore,
        replicas: Mapping[str, Replica],
        patience: float,
        lock: threading.RLock,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """``core`` is told, under ``lock``, who is in use; ``wake`` is called when a replica is again.

        Calls wait ``patience`` seconds for one where all are down.
        """
        self._core = core
        self._replicas = replicas
        self._patience = patience
        self._lock = lock
        self._clock = clock
        self._wake = wake
        self._next = 0.0
        self._probes: set[asyncio.Task[None]] = set()
        self._closed = False
        for one in replicas.values():
            if one.engine is None:
                self._take_out(one, one.error or ReplicaFailedError(f"{one.name} was never connected to."))

    def blame(self, one: Replica, error: ServingError) -> None:
        """Count a failure, and take the replica out of use if that is enough."""
        one.failed += 1
        one.error = without_content(error)
        if one.breaker.failed(self._clock(), fatal=is_fatal(error), pause=pause_of(error)):
            self._mark_down(one)

    def doubt(self, one: Replica, error: ServingError) -> None:
        """Count a call that the replica failed on before its first token, and take it out of use if it fails on all.

        A single such failure is the call's own; what is wrong with a row of them, a probe tells. The same goes for
        refusals that may be of all calls, where another replica stands in.
        """
        others = any(other.up for other in self._replicas.values() if other is not one)
        if not (isinstance(error, RequestFailedError) or (refuses_all(error) and others)):
            return
        one.fruitless += 1
        if one.up and one.fruitless >= one.limits.failures:
            calls = f"{one.fruitless} calls in a row"
            self._take_out(one, ReplicaFailedError(f"{one.name} failed on {calls}, with {error.code}."))

    def look(self) -> list[Replica]:
        """Look after each replica, not more often than every ``TICK``; returns those that hang."""
        now = self._clock()
        if now < self._next:
            return []
        self._next = now + TICK
        hanging = []
        for one in self._replicas.values():
            self._observe(one)
            alone = not any(other.up for other in self._replicas.values() if other is not one)
            if one.up and one.hangs(time.monotonic(), alone=alone):
                hanging.append(one)
            if not one.dead and one.breaker.begin_probe(now):
                task = asyncio.get_running_loop().create_task(self._probe(one))
                self._probes.add(task)
                task.add_done_callback(partial(self._probed, one))
        return hanging

    def stranded(self, calls: Iterable[Answering]) -> list[tuple[Answering, ServingError]]:
        """Return the calls that no replica will take any more, each with the error to end it with."""
        if all(one.up for one in self._replicas.values()):
            return []
        found = ((answering, self.hopeless(answering.call)) for answering in calls if not answering.copies)
        return [(answering, error) for answering, error in found if error is not None]

    def hopeless(self, call: Call) -> ServingError | None:
        """Return why a call need not wait: all it may go to are down for long, and were asked since it came.

        Once this is closed nobody need wait.
        """
        if self._closed:
            return DispatcherClosedError("the dispatcher was closed.")
        permitted = [one for one in self._replicas.values() if one.permits(call)]
        now = self._clock()
        if not permitted or any(one.up for one in permitted):
            return None
        gone = all(now - one.down_since >= self._patience and one.asked_at > call.arrived for one in permitted)
        if not gone and not all(one.dead for one in permitted):
            return None
        errors = [one.error for one in permitted if one.error is not None]
        if len(permitted) == 1 or all(isinstance(error, RemoteOverloadedError) for error in errors):
            return copy.copy(errors[0])  # one exception raised many times collects the tracebacks of all its callers
        names = ", ".join(one.name for one in permitted)
        return ReplicasDownError(f"{names} cannot be used; of the first: {errors[0]}")

    async def close(self) -> None:
        """Stop asking."""
        self._closed = True
        for task in list(self._probes):
            task.cancel()

    def _observe(self, one: Replica) -> None:
        if one.engine is not None:
            one.iteration, steps = one.engine.iterations(one.iteration)
            if steps:
                with self._lock:
                    self._core.observe(one.name, steps)

    async def _probe(self, one: Replica) -> None:
        answered = False
        try:
            if one.engine is None or isinstance(one.error, EngineClosedError | EngineFailedError):
                await _renew(one)
            async with asyncio.timeout(one.breaker.probe_seconds):
                with foreign_errors_blamed(one):
                    await one.answer_probe()
            answered = True
        except ServingError as error:
            one.error = error
        except TimeoutError:
            one.error = ReplicaHangsError(f"{one.name} gave no token within {one.breaker.probe_seconds:g} s.")
        finally:
            one.asked_at = self._clock()
            if answered:
                self._take_in(one)
            else:
                one.breaker.failed(self._clock(), fatal=True)
            self._wake()

    def _probed(self, one: Replica, task: asyncio.Task[None]) -> None:
        self._probes.discard(task)
        if one.breaker.state is Breaker.HALF_OPEN:  # the loop ended before the probe's first step
            one.breaker.failed(self._clock(), fatal=True)

    def _take_out(self, one: Replica, error: ServingError) -> None:
        one.error = error
        one.breaker.failed(self._clock(), fatal=True)
        self._mark_down(one)

    def _mark_down(self, one: Replica) -> None:
        one.down_since = one.asked_at = self._clock()
        with self._lock:
            self._core.replica_down(one.name, one.down_since)

    def _take_in(self, one: Replica) -> None:
        one.breaker.succeeded()
        one.silence.reset()
        one.fruitless = 0
        one.error = None
        with self._lock:
            self._core.replicas[one.name].spec = one.spec()  # its engine may be another, or the first
            self._core.replica_up(one.name, self._clock())


async def _renew(one: Replica) -> None:
    """Make the replica's engine anew."""
    failed = one.engine
    if failed is not None:
        with foreign_errors_blamed(one):
            await failed.close()  # its processes and its memory, in which the next one has to find room
    await asyncio.to_thread(one.connect, failed)
