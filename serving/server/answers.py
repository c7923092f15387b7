"""Answers to several choices at once: their chunks as they come, and what they amount to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.prompt_sizes import PromptSizes
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Timings, TokenLogprobs, Usage
from agentsys.serving.server.errors import AnswerAbortedError
from agentsys.serving.server.limits import Ticket
from agentsys.serving.server.outbox import Outbox


@dataclass(slots=True)
class Answer:
    """One choice as it grows."""

    text: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        """Take one chunk; raises :class:`AnswerAbortedError` if it says that no more will come."""
        self.text.append(chunk.text)
        self.logprobs.extend(chunk.logprobs)
        if chunk.finish_reason is FinishReason.ABORTED:
            raise AnswerAbortedError("the answer was aborted.")
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
            self.usage = chunk.usage or self.usage
            self.timings = chunk.timings or self.timings


async def chunks_of(
    client: ServingClient, requests: Sequence[GenerateRequest], model: str, ticket: Ticket, outbox: Outbox
) -> AsyncGenerator[tuple[int, Chunk]]:
    """Yield the chunks of all requests as they come, each with its request's index.

    Each request waits for its turn by ``ticket``. Closing the iterator aborts every request. Raises the first error of
    any of them, or of ``outbox``.
    """

    async def pump(index: int, request: GenerateRequest) -> None:
        try:
            async with ticket.turn(request.urgency), aclosing(client.stream(request, model=model)) as chunks:
                used, prompt = 0, PromptSizes().tokens(request.prompt)
                async for chunk in chunks:
                    used = _count(ticket, chunk, used, prompt)
                    outbox.put(index, chunk)
            outbox.close()
        except Exception as error:  # whatever it is, the reader must hear of it
            outbox.fail(error)

    pumps = [asyncio.create_task(pump(index, request)) for index, request in enumerate(requests)]
    try:
        while (item := await outbox.take()) is not None:
            yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def total_usage(answers: Sequence[Answer], choices: int) -> Usage:
    """Return the tokens of all answers; a prompt with ``choices`` choices counts once."""
    prompts = [answer.usage for answer in answers[::choices]]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
        cached_tokens=sum(usage.cached_tokens for usage in prompts),
        completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
    )


def _count(ticket: Ticket, chunk: Chunk, used: int, prompt: int) -> int:
    """Count what a chunk used against its tenant's minute; returns all that its call used so far.

    Only the last chunk tells it. Until then, for a reader may leave, about ``prompt`` tokens count with the first.
    """
    if chunk.usage is None:
        total = max(used, prompt) + (len(chunk.token_ids) or (1 if chunk.text else 0))
    else:
        total = (chunk.usage.prompt_tokens or prompt) + chunk.usage.completion_tokens
    ticket.use(total - used)
    return total
