"""An engine that answers by script, whose steps the test decides, and a server that can be told to end. No model."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from agentsys.serving.client import ServingClient
from agentsys.serving.engine import Capabilities, Engine, EngineStats, QueuedRequest
from agentsys.serving.engine_errors import UnsupportedFeatureError
from agentsys.serving.loading import EngineFactory
from agentsys.serving.requests import (
    Chunk,
    Embedding,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    Timings,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.server.app import serving_app
from agentsys.serving.server.limits import ServerLimits
from agentsys.serving.server.operation import Operation
from agentsys.serving.server.running import DrainingServer, server_config

EURO = "€".encode()


class ScriptedEngine:
    """Answers with ``pieces``, one token each; waits before each but the first while ``held``."""

    def __init__(self, pieces: Sequence[bytes] = (b"a", EURO[:1], EURO[1:], b"z"), *, able: bool = True) -> None:
        self.pieces = pieces
        self.go_on = threading.Event()
        self.go_on.set()
        self.requests: list[GenerateRequest] = []
        self.running: set[str] = set()
        self._able = able

    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", 1000, logprobs=self._able, embeddings=self._able)

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        self.running.add(request.request_id)
        try:
            unread = b""
            for number, piece in enumerate(self.pieces[: request.sampling.max_tokens]):
                while number and not self.go_on.is_set():
                    await asyncio.sleep(0.002)
                unread += piece
                text = unread.decode(errors="ignore")
                unread = b"" if text else unread
                yield Chunk(text, (number,), logprobs=self._logprobs(request, number, piece))
            usage = Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=len(self.pieces))
            yield Chunk("", (), FinishReason.STOP, usage, Timings(0.25, 0.5, 1.0))
        finally:
            self.running.discard(request.request_id)

    async def embed(self, request: EmbedRequest) -> Embedding:
        if not self._able:
            raise UnsupportedFeatureError("the scripted engine has no vectors.")
        vectors = tuple((math.cos(len(prompt)), math.sin(len(prompt))) for prompt in request.prompts)
        return Embedding(vectors, sum(len(prompt) for prompt in request.prompts), "scripted")

    def abort(self, request_id: str) -> None: ...

    def rekey(self, request_id: str, urgency: float) -> None: ...

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running))

    def queue(self) -> tuple[QueuedRequest, ...] | None:
        return None

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        return 0, ()

    async def close(self) -> None: ...

    @staticmethod
    def _logprobs(request: GenerateRequest, number: int, piece: bytes) -> tuple[TokenLogprobs, ...]:
        if request.sampling.logprobs is None:
            return ()
        top = [TokenLogprob(index, bytes([65 + index]), -0.5 - index) for index in range(request.sampling.logprobs)]
        return (TokenLogprobs(TokenLogprob(number, piece, -0.25 * (number + 1)), tuple(top)),)


@contextlib.contextmanager
def operated(engine: Engine | EngineFactory, limits: ServerLimits | None = None) -> Iterator[tuple[str, Operation]]:
    """Serve the engine as ``agentsys models serve`` does, in a thread; yields the address and its operation."""
    operation = Operation(limits)
    listener = socket.create_server(("127.0.0.1", 0))
    # The system's buffers are large; a client that reads nothing would otherwise be noticed late.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    app = serving_app(ServingClient({"scripted": engine}, "scripted"), operation)
    config = server_config(app, read_seconds=operation.limits.read_seconds, lifespan="off", log_level="error")
    server = DrainingServer(config, operation.lifecycle)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", operation
    finally:
        operation.lifecycle.drain()
        thread.join(20)
        assert not thread.is_alive()
        listener.close()
