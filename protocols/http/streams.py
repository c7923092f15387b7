"""Server-sent events that follow a board or a run until the reader leaves or the server stops."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.labels import Label
from agentsys.errors import AgentsysError
from agentsys.events import RunEvent
from agentsys.protocols.http.errors import error_body
from agentsys.protocols.http.schemas import EventDocument
from agentsys.supervisor import NumberedEvent, RunSupervisor
from agentsys.views.withholding import may_read

FOLLOW_SECONDS = 0.05
"""How soon a commit is seen. The board is asked in the event loop: threads that wait would take those that work."""

ELSEWHERE_SECONDS = 0.5
"""How soon it is seen that another process executes a run no more, or took one that waits for a worker."""

HEARTBEAT_SECONDS = 15.0
PAGE = 200

_WORD = re.compile(r"(?<!^)(?=[A-Z])")

Item = tuple[int, str, BaseModel]
"""The number, name and document of one event."""


LastEventId = Annotated[str | None, Header(max_length=20)]
"""What a reader of a stream says that it saw last, when it connects again. Source: the HTML standard, server-sent
events."""


class Stopping:
    """Says to every stream that the server is about to stop."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __bool__(self) -> bool:
        return self.event.is_set()

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until the server stops."""
        try:
            await asyncio.wait_for(self.event.wait(), seconds)
        except TimeoutError:
            return


class EventStream(StreamingResponse):
    """A response of server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, items: AsyncIterator[Item | None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_told_to_the_end(_encoded(items)), headers=headers)


def last_seen(after: int, last_event_id: str | None) -> int:
    """Return after which number a reader goes on that may have lost its connection meanwhile."""
    if last_event_id is None or not (last_event_id.isascii() and last_event_id.isdecimal()):
        return after
    return max(after, int(last_event_id))


async def commits_after(board: Board, after: int, stopping: Stopping) -> AsyncGenerator[list[Commit]]:
    """Yield the commits after ``after`` in pages, for ever; an empty page each time the board has no more."""
    while not stopping:
        heard = board.heard
        page = await asyncio.to_thread(board.log, after=after, limit=PAGE) if heard > after else []
        after = page[-1].seq if page else after
        if len(page) < PAGE:
            # There is nothing else for this reader, who would read again and again what others did.
            after = max(after, heard)
        if not page:
            await stopping.wait(FOLLOW_SECONDS)
        yield page


async def numbered_events(
    supervisor: RunSupervisor, run: str, after: int, stopping: Stopping
) -> AsyncGenerator[list[NumberedEvent]]:
    """Yield a run's new events until no process executes it; empty lists while there are none.

    Of what another process does in it, only the end is seen. A run that waits for a worker is waited for.
    """
    while not stopping:
        executing = supervisor.executing(run)
        events = supervisor.events(run, after)
        if events:
            after = events[-1][0]
        elif executing:
            await stopping.wait(FOLLOW_SECONDS)
        elif any(await asyncio.to_thread(supervisor.whereabouts, run)):
            await stopping.wait(ELSEWHERE_SECONDS)
        elif not supervisor.executing(run) and not supervisor.events(run, after):
            # Neither was it taken here during that look.
            return
        yield events


def event_document(number: int, event: RunEvent, reader: str) -> EventDocument:
    """Return an event as a document, ``TokensStreamed`` as type ``tokens_streamed``.

    What its label keeps from ``reader`` is left out: that something of its kind happened is told, and what not.
    """
    withheld = event.label is not None and not may_read(event.label, reader)
    data: dict[str, Any] = {"withheld": True} if withheld else {}
    for item in dataclasses.fields(event):
        value = getattr(event, item.name)
        data[item.name] = value.to_json() if isinstance(value, Label) else _emptied(value) if withheld else value
    data["run"] = event.run
    return EventDocument(number=number, type=_WORD.sub("_", type(event).__name__).lower(), data=data)


def _emptied(value: Any) -> Any:
    """Return what stands in the place of a withheld value: as much of its form as readers rely on."""
    return type(value)() if isinstance(value, str | int | float | bool) else None


async def _told_to_the_end(texts: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Yield the texts, and last the error that ended them: the status is sent by then."""
    try:
        async for text in texts:
            yield text
    except AgentsysError as error:
        yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n"


async def _encoded(items: AsyncIterator[Item | None]) -> AsyncGenerator[str]:
    """Encode items; ``None`` says that there is none, so that a quiet stream is kept open by comments."""
    sent = time.monotonic()
    yield ": open\n\n"
    async for item in items:
        if item is not None:
            number, name, document = item
            yield f"id: {number}\nevent: {name}\ndata: {document.model_dump_json()}\n\n"
        elif time.monotonic() - sent < HEARTBEAT_SECONDS:
            continue
        else:
            yield ": quiet\n\n"
        sent = time.monotonic()
