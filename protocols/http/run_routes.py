"""Routes that start, watch and steer runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER
from agentsys.gateway import PolicyDenied
from agentsys.protocols.http.schemas import (
    MAX_NUMBER,
    EventList,
    ForkRun,
    RunDocument,
    RunReference,
    StartRun,
)
from agentsys.protocols.http.streams import EventStream, Item, Stopping, event_document, numbered_events
from agentsys.runs import RunRecord, RunStatus
from agentsys.supervisor import RunSupervisor
from agentsys.views.run_index import run_index
from agentsys.views.withholding import may_read

RunId = Annotated[str, Path(min_length=1, max_length=1024)]
Number = Annotated[int, Query(ge=0, le=MAX_NUMBER)]


def run_reading_router(board: Board, reader: str = OWNER) -> APIRouter:
    """Return the routes under ``/runs`` that read any board's runs, answering ``reader``."""
    router = APIRouter(prefix="/runs", tags=["runs"])

    @router.get("")
    def runs(
        status: RunStatus | None = None,
        workflow: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    ) -> list[RunDocument]:
        """List runs, the newest first; ``before`` is a start time, to page on with."""
        found = [
            record
            for record in reversed(run_index(board).records(board))
            if (status is None or record.status == status)
            and (workflow is None or record.workflow == workflow)
            and (before is None or record.started < before)
        ]
        return [RunDocument.of(record, reader) for record in found[:limit]]

    @router.get("/{run}")
    def show(run: RunId) -> RunDocument:
        """Return one run."""
        return RunDocument.of(RunRecord.load(board, run), reader)

    return router


def run_control_router(supervisor: RunSupervisor, stopping: Stopping | None = None) -> APIRouter:
    """Return the routes under ``/runs`` that start, steer and follow runs; ``stopping`` ends what follows them."""
    router = APIRouter(prefix="/runs", tags=["runs"])
    board, ending = supervisor.runtime.board, Stopping() if stopping is None else stopping

    @router.post("", status_code=202)
    async def start(body: StartRun) -> RunReference:
        """Start a run in the background; the answer comes once its record is committed."""
        origin = {"face": "http"}
        run = await supervisor.start(
            body.workflow, body.input, deadline=body.deadline_seconds, run_id=body.run_id, origin=origin
        )
        return RunReference(run=run)

    @router.post("/{run}/cancel")
    async def cancel(run: RunId) -> RunReference:
        """End a run for good; of a finished one nothing changes."""
        await supervisor.cancel(run)
        return RunReference(run=run)

    @router.post("/{run}/resume", status_code=202)
    async def resume(run: RunId) -> RunReference:
        """Go on with an interrupted run."""
        return RunReference(run=await supervisor.resume(run))

    @router.post("/{run}/fork", status_code=202)
    async def fork(run: RunId, body: ForkRun) -> RunReference:
        """Start a new run that takes over what this one had recorded at a commit."""
        return RunReference(run=await supervisor.fork(run, at=body.at, run_id=body.run_id))

    @router.get("/{run}/events")
    async def events(
        run: RunId, after: Number = 0, wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0
    ) -> EventList:
        """Return the events after a number, waiting so many seconds for the first of them."""
        record = await asyncio.to_thread(_watchable, supervisor, run)
        found = supervisor.events(run, after)
        if not found and wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    async for found in numbered_events(supervisor, run, after, ending):
                        if found:
                            break
            record = await asyncio.to_thread(RunRecord.load, board, run)
        return EventList(
            run=run,
            status=record.status,
            executing=supervisor.executing(run),
            events=[event_document(number, event) for number, event in found],
        )

    @router.get("/{run}/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def stream(
        run: RunId, after: Number = 0, last_event_id: Annotated[str | None, Header(max_length=20)] = None
    ) -> EventStream:
        """Follow a run as server-sent events, its tokens among them; ends with ``run`` once nobody executes it."""
        await asyncio.to_thread(_watchable, supervisor, run)
        if last_event_id is not None and last_event_id.isascii() and last_event_id.isdecimal():
            after = max(after, int(last_event_id))
        return EventStream(_stream(supervisor, run, after, ending))

    return router


def _watchable(supervisor: RunSupervisor, run: str) -> RunRecord:
    """Return the record of a run that the owner may watch: its events carry what its input says."""
    record = RunRecord.load(supervisor.runtime.board, run)
    if not may_read(record.input_label, supervisor.runtime.policy.owner):
        raise PolicyDenied(f"The input of run {run} may not be read by {supervisor.runtime.policy.owner}.")
    return record


async def _stream(supervisor: RunSupervisor, run: str, after: int, stopping: Stopping) -> AsyncGenerator[Item | None]:
    async for events in numbered_events(supervisor, run, after, stopping):
        for after, event in events:
            document = event_document(after, event)
            yield after, document.type, document
        if not events:
            yield None
    record = await asyncio.to_thread(RunRecord.load, supervisor.runtime.board, run)
    yield after, "run", RunDocument.of(record, supervisor.runtime.policy.owner)
