"""An engine for tests of what is told about engines. It is not a model."""

import asyncio

from agentsys.serving.engine import Capabilities, EngineStats, QueuedRequest
from agentsys.serving.requests import Chunk, FinishReason, Timings, Usage

ANSWER = "what the engine wrote"


class ScriptedEngine:
    """Sends one piece, waits until it is told to go on, and ends."""

    def __init__(self, *, tells_queue: bool) -> None:
        self.tells_queue = tells_queue
        self.go_on = asyncio.Event()
        self.waiting: list[str] = []

    def capabilities(self):
        return Capabilities("scripted", 100)

    async def submit(self, request):
        self.waiting.append(request.request_id)
        yield Chunk(ANSWER, (1, 2))
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        self.waiting.remove(request.request_id)
        yield Chunk("", (), FinishReason.STOP, Usage(9, 3, 2, 4, 1), Timings(0.25, 0.5, 1.0))

    def abort(self, request_id): ...

    def rekey(self, request_id, urgency): ...

    def stats(self):
        return EngineStats(running=len(self.waiting), slots=4)

    def queue(self):
        if not self.tells_queue:
            return None
        return tuple(QueuedRequest(name, 7.0, "decode", Usage(9, 3, 2)) for name in self.waiting)

    def iterations(self, after=0):
        return 0, ()

    async def embed(self, request):
        raise NotImplementedError

    async def close(self): ...
