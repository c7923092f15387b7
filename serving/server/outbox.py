"""What engines have said and a client has not read yet: bounded, and joined while the client is behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from agentsys.serving.requests import Chunk
from agentsys.serving.server.errors import SlowClientError

MOST_PIECES = 16_384
"""Unread pieces of one request's answers, each of about one token."""


class Outbox:
    """Chunks of several answers on their way to one reader. Belongs to one event loop.

    A reader that keeps up gets every chunk as it came; one that is behind gets what came meanwhile as one.
    """

    def __init__(self, answers: int) -> None:
        self._open = answers
        self._unread: dict[int, list[Chunk]] = {}
        self._pieces = 0
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def put(self, index: int, chunk: Chunk) -> None:
        """Add a piece of answer ``index``; raises :class:`SlowClientError` where too much is unread."""
        if self._pieces >= MOST_PIECES:
            raise SlowClientError(f"{self._pieces} pieces of the answer wait to be read.")
        self._unread.setdefault(index, []).append(chunk)
        self._pieces += 1
        self._changed.set()

    def close(self) -> None:
        """Say that one of the answers is whole."""
        self._open -= 1
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End with an error, which the reader meets when it has read the rest; the first one counts."""
        self._error = self._error or error
        self._changed.set()

    async def take(self) -> tuple[int, Chunk] | None:
        """Return what is unread of one answer, waiting for it; ``None`` once all are whole."""
        while not self._unread:
            if self._error is not None:
                raise self._error
            if not self._open:
                return None
            self._changed.clear()
            await self._changed.wait()
        index = next(iter(self._unread))
        chunks = self._unread.pop(index)
        self._pieces -= len(chunks)
        return index, joined(chunks)


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Return successive chunks of one answer as one."""
    if len(chunks) == 1:
        return chunks[0]
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        logprobs=tuple(token for chunk in chunks for token in chunk.logprobs),
    )
