"""Answers to several choices at once: their chunks as they come, and what they amount to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from agentsys.serving.client import ServingClient
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Usage
from agentsys.serving.server.errors import AnswerAbortedError


@dataclass(slots=True)
class Answer:
    """One choice as it grows."""

    text: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)

    def add(self, chunk: Chunk) -> None:
        """Take one chunk; raises :class:`AnswerAbortedError` if it says that no more will come."""
        self.text.append(chunk.text)
        if chunk.finish_reason is FinishReason.ABORTED:
            raise AnswerAbortedError("the answer was aborted.")
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
            self.usage = chunk.usage or self.usage


async def chunks_of(
    client: ServingClient, requests: Sequence[GenerateRequest], model: str
) -> AsyncGenerator[tuple[int, Chunk]]:
    """Yield the chunks of all requests as they come, each with its request's index.

    Closing the iterator aborts every request. Raises the first error of any of them.
    """
    arrived: asyncio.Queue[tuple[int, Chunk | None] | Exception] = asyncio.Queue()

    async def pump(index: int, request: GenerateRequest) -> None:
        try:
            async with aclosing(client.stream(request, model=model)) as chunks:
                async for chunk in chunks:
                    arrived.put_nowait((index, chunk))
            arrived.put_nowait((index, None))
        except Exception as error:  # whatever it is, the reader must hear of it
            arrived.put_nowait(error)

    pumps = [asyncio.create_task(pump(index, request)) for index, request in enumerate(requests)]
    try:
        streaming = len(pumps)
        while streaming:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            index, chunk = item
            if chunk is None:
                streaming -= 1
            else:
                yield index, chunk
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
