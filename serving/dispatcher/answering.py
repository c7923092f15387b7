"""One call from its arrival to its last chunk, over all replicas that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from agentsys.errors import ServingError
from agentsys.serving.dispatcher.errors import ReplicaFailedError
from agentsys.serving.dispatcher.mailbox import Mailbox
from agentsys.serving.dispatcher.replica import Replica, foreign_errors_blamed, reading
from agentsys.serving.dispatcher.resumption import Shown, Transform, continuation
from agentsys.serving.engine import Engine, QueuedRequest
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Timings, Usage
from agentsys.serving.scheduling.calls import Call
from agentsys.serving.scheduling.step_time import Iteration

_CLOSING_SECONDS = 1.0
_LEAST_TOKENS = 8
_LEAST_STEP_SECONDS = 5e-4


@dataclass(slots=True, eq=False)
class Copy:
    """The call at one replica, under ``engine_id`` there; ``tokens`` have come from it, the first at ``first_at``.

    Times are of ``time.perf_counter``.
    """

    replica: Replica
    engine_id: str
    transform: Transform
    prompt_tokens: int
    tokens: int = 0
    started_at: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    task: asyncio.Task[None] | None = None

    def steps(self, usage: Usage) -> list[Iteration]:
        """Return what the call says about the speed of a replica that does not tell its steps: two typical ones."""
        now, first = time.perf_counter(), self.first_at or time.perf_counter()
        batch, context = max(self.replica.in_flight, 1), usage.prompt_tokens + usage.completion_tokens // 2
        computed = max(usage.prompt_tokens - usage.cached_tokens, 1)
        steps = [Iteration(computed, batch - 1, batch * context, first - self.started_at)]
        # Tokens that were read together, as of short answers on a busy loop, say nothing of the steps between them.
        each = (now - first) / max(self.tokens - 1, 1)
        if self.tokens >= _LEAST_TOKENS and each >= _LEAST_STEP_SECONDS:
            steps.append(Iteration(0, batch, batch * context, each))
        return steps


class Reports(Protocol):
    """Who is told how a call goes."""

    def won(self, answering: Answering, copy: Copy) -> None:
        """The copy was the first to answer: others are not wanted any more."""

    def progressed(self, answering: Answering, copy: Copy, *, first: bool) -> None:
        """More of the answer came, of this copy for the ``first`` time."""

    def ended(self, answering: Answering, copy: Copy, usage: Usage) -> None:
        """The answer is complete."""

    def lost(self, answering: Answering, copy: Copy, error: ServingError) -> None:
        """The copy ended with an error; nothing if it is not wanted any more."""


class Answering:
    """The state of one call. All but the constructor runs on the caller's event loop."""

    __slots__ = (
        "_begun",
        "_closing",
        "_context",
        "_first_at",
        "_opened",
        "_reports",
        "_started_at",
        "call",
        "copies",
        "failures",
        "loop",
        "mailbox",
        "request",
        "shown",
        "winner",
    )

    def __init__(self, request: GenerateRequest, call: Call, reports: Reports) -> None:
        self.request = request
        self.call = call
        self.loop = asyncio.get_running_loop()
        self.mailbox = Mailbox()
        self.copies: dict[str, Copy] = {}
        self.winner: Copy | None = None
        self.shown = Shown()
        self.failures = 0
        self._reports = reports
        self._context = copy_context()  # the caller's, for the traces that it is a part of
        self._opened = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._begun = time.perf_counter()
        self._started_at: float | None = None
        self._first_at: float | None = None

    def on_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call on the caller's event loop, at once if this is it; not at all if it is closed."""
        if running_loop() is self.loop:
            callback(*arguments)
            return
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(callback, *arguments)

    def open(self, replica: Replica, urgency: float) -> Copy | None:
        """Submit the call, or what is left of it, to a replica; returns nothing where there is nothing to do.

        Raises ``AnswerInterruptedError`` if the answer cannot be continued there.
        """
        if self.mailbox.ended or replica.name in self.copies or replica.engine is None:
            return None
        request, transform = continuation(self.request, self.shown, replica.engine)
        # The same id for the same request, by which a server can tell that it has it already.
        self._opened += 1
        same = request is self.request
        engine_id = self.request.request_id if same else f"{self.request.request_id}.{self._opened}"
        request = replace(request, urgency=urgency, request_id=engine_id)
        copy = Copy(replica, engine_id, transform, self.call.prompt_tokens)
        self.copies[replica.name] = copy
        self._started_at = self._started_at or time.perf_counter()
        copy.task = self.loop.create_task(self._read(replica.engine, copy, request), context=self._context)
        return copy

    def drop(self, copy: Copy) -> None:
        """Want no more of a copy, wherever it stands."""
        if self.copies.get(copy.replica.name) is copy:
            del self.copies[copy.replica.name]
        if self.winner is copy:
            self.winner = None
        if copy.task is not None and copy.task is not asyncio.current_task():
            copy.task.cancel()
            self._closing.add(copy.task)
            copy.task.add_done_callback(self._closing.discard)

    async def closed(self) -> None:
        """Wait until the engines of dropped copies know it."""
        if self._closing:
            await asyncio.wait(list(self._closing), timeout=_CLOSING_SECONDS)

    def row(self, told: Mapping[str, QueuedRequest], key: float) -> QueuedRequest:
        """Return the call as a row of the queue: what its replica told of it, or what is known here."""
        for copy in self.copies.values():
            if copy.engine_id in told:
                return replace(told[copy.engine_id], request_id=self.request.request_id)
        phase: Literal["waiting", "decode"] = "decode" if self.copies and self.shown.tokens else "waiting"
        usage = Usage(self.call.prompt_tokens, completion_tokens=self.shown.tokens)
        return QueuedRequest(self.request.request_id, key, phase, usage)

    def aborted(self) -> None:
        """End the answer where it is."""
        self.mailbox.put(self._last(Chunk("", finish_reason=FinishReason.ABORTED)))

    async def _read(self, engine: Engine, copy: Copy, request: GenerateRequest) -> None:
        error: ServingError
        try:
            with foreign_errors_blamed(copy.replica):
                async with reading(engine, request) as chunks:
                    async for chunk in chunks:
                        if not self._take(copy, chunk):
                            return
            error = ReplicaFailedError(f"{copy.replica.name} ended its answer without a finish reason.")
        except ServingError as failure:
            error = failure
        self._reports.lost(self, copy, error)

    def _take(self, copy: Copy, chunk: Chunk) -> bool:
        """Pass on a piece of the answer; returns whether more is wanted of this copy."""
        if self.mailbox.ended or self.copies.get(copy.replica.name) is not copy:
            return False
        if self.winner is None:
            self.winner = copy
            self._first_at = self._first_at or time.perf_counter()
            self._reports.won(self, copy)
        elif self.winner is not copy:
            return False
        new = copy.transform(chunk)
        self.shown.add(new)
        if new.finish_reason is None:
            first, copy.tokens = not copy.tokens, copy.tokens + (len(chunk.token_ids) or 1)
            copy.first_at = copy.first_at or time.perf_counter()
            self._reports.progressed(self, copy, first=first)
            if new.text or new.token_ids or new.logprobs:
                self.mailbox.put(new)
            return True
        last = self._last(new)
        self._reports.ended(self, copy, last.usage or Usage())
        self.mailbox.put(last)
        return False

    def _last(self, chunk: Chunk) -> Chunk:
        now = time.perf_counter()
        engine = chunk.timings or Timings()
        timings = Timings(
            queued=(self._started_at or now) - self._begun + engine.queued,
            first_token=(self._first_at or now) - self._begun,
            total=now - self._begun,
        )
        usage = chunk.usage or Usage(self.call.prompt_tokens, completion_tokens=self.shown.tokens)
        return replace(chunk, usage=usage, timings=timings)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that this thread runs, if it runs one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
