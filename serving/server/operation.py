"""What the routes of one server share: its limits, its life, its measurements, and each request under way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, aclosing

from agentsys.serving.client import ServingClient
from agentsys.serving.requests import GenerateRequest, Usage
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
    """One request for answers, from its admission to the end of its stream; whoever makes one closes it."""

    def __init__(
        self,
        operation: Operation,
        client: ServingClient,
        requests: Sequence[GenerateRequest],
        *,
        model: str,
        kind: str,
        choices: int,
    ) -> None:
        """``kind`` is what OpenTelemetry calls the operation; each prompt has ``choices`` requests.

        Raises ``LimitReachedError`` and ``DrainingError``.
        """
        outbox, tenant = Outbox(len(requests)), requests[0].call.tenant if requests[0].call else ""
        with ExitStack() as held:
            held.enter_context(operation.lifecycle.request(lambda: outbox.fail(_ended())))
            ticket = operation.admission.admit(tenant, len(requests))
            held.callback(operation.admission.leave, ticket)
            self.span = CallSpan(kind, model, requests)
            held.callback(self.span.end)
            self._held = held.pop_all()
        self._choices = choices
        self._metrics = operation.metrics
        self.answers = [Answer() for _ in requests]
        self.chunks = chunks_of(client, requests, model, ticket, outbox)

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
        self.span.answered(self.answers, self.usage)

    def failed(self, error: BaseException) -> None:
        """Note why they are not."""
        self.span.failed(error)

    async def close(self) -> None:
        """Abort what still runs and give back what is held; more than once does nothing."""
        await self.chunks.aclose()
        self._held.close()


def _ended() -> AnswerAbortedError:
    return AnswerAbortedError("the server ended before the answer was whole.")
