"""Routes that read a board. They are made for any board, so that a recorded one is read by the same routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.protocols.http.callers import Calling, SeenBoards
from agentsys.protocols.http.errors import NotFound
from agentsys.protocols.http.schemas import (
    MAX_NUMBER,
    NO_NUL,
    BoardDocument,
    CommitDocument,
    EntryDocument,
)
from agentsys.protocols.http.streams import EventStream, Item, LastEventId, Stopping, commits_after, last_seen

Seq = Annotated[int, Query(ge=0, le=MAX_NUMBER)]
OptionalSeq = Annotated[int | None, Query(ge=0, le=MAX_NUMBER)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Name = Annotated[str, Query(min_length=1, max_length=1024, pattern=NO_NUL)]
OptionalName = Annotated[str | None, Query(min_length=1, max_length=1024, pattern=NO_NUL)]


def board_router(boards: SeenBoards, stopping: Stopping | None = None) -> APIRouter:
    """Return the routes under ``/board``; ``stopping`` ends what follows the board."""
    router = APIRouter(prefix="/board", tags=["board"])

    @router.get("")
    def state(caller: Calling) -> BoardDocument:
        """Say how the board stands."""
        board = boards.of(caller)
        return BoardDocument(head=board.head, epoch=board.epoch)

    @router.get("/entries")
    def entries(
        caller: Calling,
        topic: OptionalName = None,
        topic_prefix: OptionalName = None,
        at: OptionalSeq = None,
        limit: Limit = 200,
    ) -> list[EntryDocument]:
        """List entries by topic and key, now or as they were after commit ``at``."""
        found = boards.of(caller).query(Predicate(topic=topic, topic_prefix=topic_prefix), at=at, limit=limit)
        return [EntryDocument.of(entry, caller.principal) for entry in found]

    @router.get("/entry")
    def entry(caller: Calling, topic: Name, key: Name, at: OptionalSeq = None) -> EntryDocument:
        """Return one entry, now or as it was after commit ``at``."""
        found = boards.of(caller).get(topic, key, at=at)
        if found is None:
            raise NotFound("The board has no such entry.")
        return EntryDocument.of(found, caller.principal)

    @router.get("/history")
    def history(caller: Calling, topic: Name, key: Name) -> list[EntryDocument]:
        """List the versions of one entry, the oldest first, deletions included."""
        return [EntryDocument.of(version, caller.principal) for version in boards.of(caller).history(topic, key)]

    @router.get("/commits")
    def commits(
        caller: Calling, after: OptionalSeq = None, limit: Limit = 100, run: OptionalName = None
    ) -> list[CommitDocument]:
        """List commits after a sequence number, all or those of one run; without one, from where the log begins."""
        found = boards.of(caller).log(after=after, limit=limit, run=run)
        return [CommitDocument.of(commit, caller.principal) for commit in found]

    @router.get("/tail", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def tail(caller: Calling, after: OptionalSeq = None, last_event_id: LastEventId = None) -> EventStream:
        """Follow the commits after a sequence number, by default from now on, as server-sent events."""
        board = boards.of(caller)
        seen = last_seen(after or 0, last_event_id)
        head = await asyncio.to_thread(lambda: board.head)
        start = seen if seen or after is not None else head
        if start < head:
            # What the log no longer has is refused before the stream begins.
            await asyncio.to_thread(board.log, after=start, limit=1)
        return EventStream(_tail(board, start, caller.principal, Stopping() if stopping is None else stopping))

    return router


async def _tail(board: Board, after: int, reader: str, stopping: Stopping) -> AsyncGenerator[Item | None]:
    async for page in commits_after(board, after, stopping):
        for commit in page:
            yield commit.seq, "commit", CommitDocument.of(commit, reader)
        if not page:
            yield None
