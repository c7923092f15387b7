"""What is on its way from a replica to a reader that may be slow."""

from __future__ import annotations

import asyncio
from collections import deque

from agentsys.errors import ServingError
from agentsys.serving.requests import Chunk, TokenLogprobs

MOST_CHUNKS = 64


class Mailbox:
    """Chunks of one answer until they are read. Belongs to one event loop.

    A reader that does not read keeps no replica busy and memory bounded: beyond ``MOST_CHUNKS`` chunks are merged, so
    that no more is held than that and the answer itself, which the request's ``max_tokens`` bounds.
    """

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._end: Chunk | ServingError | None = None
        self._filled = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the last chunk, or the error in its place, has been put."""
        return self._end is not None

    def put(self, chunk: Chunk) -> None:
        """Add a piece of the answer; one with a finish reason is the last. After the end nothing is taken."""
        if self._end is not None:
            return
        if chunk.finish_reason is not None:
            self._end = chunk
        elif not self._texts and len(self._chunks) < MOST_CHUNKS:
            self._chunks.append(chunk)
        else:
            self._texts.append(chunk.text)
            self._tokens.extend(chunk.token_ids)
            self._logprobs.extend(chunk.logprobs)
        self._filled.set()

    def fail(self, error: ServingError) -> None:
        """End the stream with an error, behind what was put before."""
        if self._end is None:
            self._end = error
            self._filled.set()

    async def get(self) -> Chunk:
        """Return the next chunk. Raises the error that ended the stream."""
        while True:
            if self._chunks:
                return self._chunks.popleft()
            if self._texts:
                merged = Chunk("".join(self._texts), tuple(self._tokens), logprobs=tuple(self._logprobs))
                for unread in (self._texts, self._tokens, self._logprobs):
                    unread.clear()
                return merged
            if isinstance(self._end, Chunk):
                return self._end
            if self._end is not None:
                raise self._end
            self._filled.clear()
            await self._filled.wait()
