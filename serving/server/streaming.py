"""Server-sent events, and requests whose client went away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from agentsys.errors import AgentsysError
from agentsys.serving.requests import Chunk
from agentsys.serving.server.answers import Answer
from agentsys.serving.server.errors import ClientGoneError, error_body
from agentsys.serving.server.formats import AnswerFormat, Json

T = TypeVar("T")


class EventStream(StreamingResponse):
    """Sends events; however it ends, the events' source is closed, which aborts what it still generates."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


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
            if chunk.text:
                choices += form.piece(index, chunk.text)
            if answer.finish_reason is not None:
                choices += form.ending(index, answer)
            for choice in choices:
                yield event(form.envelope([choice], streamed=True))


async def stream_from(first: str, rest: AsyncGenerator[str], usage: Callable[[], Json | None]) -> AsyncGenerator[str]:
    """Yield an event already taken, the rest, an event of ``usage`` if it returns one, and the end mark.

    The status is sent by then, so an error becomes an event of its own.
    """
    async with aclosing(rest):
        yield first
        try:
            async for text in rest:
                yield text
        except AgentsysError as error:
            yield event(error_body(error))
        else:
            counted = usage()
            if counted is not None:
                yield event(counted)
        yield "data: [DONE]\n\n"


def event(body: Json) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
