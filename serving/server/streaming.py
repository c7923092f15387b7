"""Server-sent events, and requests whose client went away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from agentsys.errors import AgentsysError
from agentsys.serving.requests import Chunk
from agentsys.serving.server.answers import Answer
from agentsys.serving.server.errors import ClientGoneError, SlowClientError
from agentsys.serving.server.formats import AnswerFormat, Json
from agentsys.serving.server.running import drop_connection

T = TypeVar("T")


class EventStream(StreamingResponse):
    """Sends events, to a client that reads them; however it ends, ``close`` ends what they come from.

    A client that takes nothing for ``read_seconds`` loses its connection, and with it what it has not read.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str], *, read_seconds: float, close: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._read_seconds = read_seconds
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._read_seconds):
                    await send(message)
            except TimeoutError:
                slow = SlowClientError(f"the client has read nothing for {self._read_seconds:g} s.")
                if not drop_connection(scope):
                    raise slow from None
                await asyncio.Event().wait()  # until the lost connection cancels this

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            await self._close()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; raises :class:`ClientGoneError`, having cancelled it, when the client goes away."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_client_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError("the client closed its connection.")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def events_of(
    chunks: AsyncGenerator[tuple[int, Chunk]], form: AnswerFormat, answers: list[Answer]
) -> AsyncGenerator[str]:
    """Yield the events of a stream, adding up the answers."""
    async with aclosing(chunks):
        async for index, chunk in chunks:
            answer = answers[index]
            choices = [] if answer.text else form.opening(index)
            answer.add(chunk)
            if chunk.text or chunk.logprobs:
                choices += form.piece(index, chunk)
            if answer.finish_reason is not None:
                choices += form.ending(index, answer)
            for choice in choices:
                yield event(form.envelope([choice], streamed=True))


async def stream_from(
    first: str, rest: AsyncGenerator[str], ending: Callable[[AgentsysError | None], Json | None]
) -> AsyncGenerator[str]:
    """Yield an event already taken, the rest, the event that ``ending`` returns, and the end mark.

    The status is sent by then, so ``ending`` is told of an error, to return it as an event of its own.
    """
    async with aclosing(rest):
        yield first
        failure: AgentsysError | None = None
        try:
            async for text in rest:
                yield text
        except AgentsysError as error:
            failure = error
        last = ending(failure)
        if last is not None:
            yield event(last)
        yield "data: [DONE]\n\n"


def event(body: Json) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
