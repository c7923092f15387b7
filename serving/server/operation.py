"""What the routes of one server share: its limits, its life, its measurements, and each request under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing

from agentsys.serving.client import ServingClient
from agentsys.serving.engine import Engine
from agentsys.serving.requests import Chunk, GenerateRequest, Usage
from agentsys.serving.server.answers import Answer, chunks_of, total_usage
from agentsys.serving.server.errors import AnswerAbortedError
from agentsys.serving.server.lifecycle import Lifecycle
from agentsys.serving.server.limits import Admission, ServerLimits
from agentsys.serving.server.metrics import HttpMetrics
from agentsys.serving.server.outbox import Outbox
from agentsys.serving.server.tracing import CallSpan


class Operation:
    """The state of a server. Belongs to one event loop."""

    def __init__(self, limits: ServerLimits | None = None) -> None:
        self.limits = ServerLimits() if limits is None else limits
        self.lifecycle = Lifecycle(self.limits.drain_seconds)
        self.admission = Admission(self.limits)
        self.metrics = HttpMetrics(self.lifecycle, self.admission)


class Exchange:
    """One request for answers, from its admission to the end of its stream; whoever makes one closes it.

    ``answers`` and ``chunks`` are there once it was asked.
    """

    answers: list[Answer]
    chunks: AsyncGenerator[tuple[int, Chunk]]

    def __init__(self, operation: Operation, *, tenant: str, calls: int) -> None:
        """Admit a request of so many ``calls``. Raises ``LimitReachedError`` and ``DrainingError``."""
        self._outbox = Outbox(calls)
        self._loading: asyncio.Future[Engine] | None = None
        self.span: CallSpan | None = None
        with ExitStack() as held:
            held.enter_context(operation.lifecycle.request(self._end))
            self._ticket = operation.admission.admit(tenant, calls)
            held.callback(operation.admission.leave, self._ticket)
            self._held = held.pop_all()

    async def engine(self, client: ServingClient, model: str) -> Engine:
        """Return the model's engine, which may have to be loaded. Raises ``AnswerAbortedError`` if the server ends."""
        self._loading = asyncio.ensure_future(client.engine(model))
        try:
            return await self._loading
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _ended() from None

    def ask(
        self, client: ServingClient, requests: Sequence[GenerateRequest], *, model: str, kind: str, choices: int
    ) -> CallSpan:
        """Ask for all answers; returns the span of that.

        ``kind`` is what OpenTelemetry calls the operation; each prompt has ``choices`` requests.
        """
        self.span = CallSpan(kind, model, requests)
        self._held.callback(self.span.end)
        self._choices = choices
        self.answers = [Answer() for _ in requests]
        self.chunks = chunks_of(client, requests, model, self._ticket, self._outbox)
        return self.span

    @property
    def usage(self) -> Usage:
        """The tokens of all answers."""
        return total_usage(self.answers, self._choices)

    async def finish(self) -> None:
        """Wait until the answers are whole."""
        async with aclosing(self.chunks):
            async for index, chunk in self.chunks:
                self.answers[index].add(chunk)
        self.answered()

    def answered(self) -> None:
        """Note that the answers are whole."""
        if self.span is not None:
            self.span.answered(self.answers, self.usage)

    def failed(self, error: BaseException) -> None:
        """Note why they are not."""
        if self.span is not None:
            self.span.failed(error)

    async def close(self) -> None:
        """Abort what still runs and give back what is held; more than once does nothing."""
        try:
            if self.span is not None:
                await self.chunks.aclose()
        finally:
            self._held.close()

    def _end(self) -> None:
        self._outbox.fail(_ended())
        if self._loading is not None:
            self._loading.cancel()


def _ended() -> AnswerAbortedError:
    return AnswerAbortedError("the server ended before the answer was whole.")
