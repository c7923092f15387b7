"""Routes that start, watch and steer runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from agentsys.blackboard.labels import Label
from agentsys.errors import LabelError
from agentsys.gateway import PolicyDenied
from agentsys.protocols.http.callers import Calling, SeenBoards
from agentsys.protocols.http.schemas import (
    MAX_NUMBER,
    NO_NUL,
    EventList,
    ForkRun,
    RunDocument,
    RunReference,
    StartRun,
)
from agentsys.protocols.http.streams import (
    EventStream,
    Item,
    LastEventId,
    Stopping,
    event_document,
    last_seen,
    numbered_events,
)
from agentsys.protocols.principals import Caller
from agentsys.runs import PRINCIPAL, RunRecord, RunStatus
from agentsys.supervisor import RunSupervisor, Whereabouts
from agentsys.views.run_index import run_index
from agentsys.views.withholding import may_read


class NotYourRun(LabelError):
    """A principal wanted to steer a run that another one started."""

    code = "AGS-0772"
    remedy = "Ask whoever started it, or whoever runs the server."


RunId = Annotated[str, Path(min_length=1, max_length=1024, pattern=NO_NUL)]
Number = Annotated[int, Query(ge=0, le=MAX_NUMBER)]


def run_reading_router(boards: SeenBoards) -> APIRouter:
    """Return the routes under ``/runs`` that read any board's runs."""
    router = APIRouter(prefix="/runs", tags=["runs"])

    @router.get("")
    def runs(
        caller: Calling,
        status: RunStatus | None = None,
        workflow: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    ) -> list[RunDocument]:
        """List runs, the newest first; ``before`` is a start time, to page on with."""
        board = boards.of(caller)
        found = [
            record
            for record in reversed(run_index(board).records(board))
            if (status is None or record.status == status)
            and (workflow is None or record.workflow == workflow)
            and (before is None or record.started < before)
        ]
        return [RunDocument.of(record, caller.principal) for record in found[:limit]]

    @router.get("/{run}")
    def show(caller: Calling, run: RunId) -> RunDocument:
        """Return one run."""
        return RunDocument.of(RunRecord.load(boards.of(caller), run), caller.principal)

    return router


def run_control_router(supervisor: RunSupervisor, boards: SeenBoards, stopping: Stopping | None = None) -> APIRouter:
    """Return the routes under ``/runs`` that start, steer and follow runs; ``stopping`` ends what follows them."""
    router = APIRouter(prefix="/runs", tags=["runs"])
    ending = Stopping() if stopping is None else stopping
    _add_steering(router, supervisor, boards)
    _add_following(router, supervisor, boards, ending)
    return router


def _add_steering(router: APIRouter, supervisor: RunSupervisor, boards: SeenBoards) -> None:
    async def steered(caller: Caller, run: str) -> str:
        """Return a run that the caller may steer. Raises :class:`UnknownRun` and :class:`NotYourRun`."""
        record = await asyncio.to_thread(RunRecord.load, boards.of(caller), run)
        if not caller.operator and caller.principal not in record.input_label.influencers:
            raise NotYourRun(f"{caller.principal} did not start run {run}.")
        return run

    @router.post("", status_code=202)
    async def start(caller: Calling, body: StartRun) -> RunReference:
        """Start a run in the background; the answer comes once its record is committed."""
        origin = {"face": "http"} | ({} if caller.operator else {PRINCIPAL: caller.principal})
        run = await supervisor.start(
            body.workflow,
            body.input,
            label=Label.trusted(caller.principal),
            deadline=body.deadline_seconds,
            run_id=body.run_id,
            origin=origin,
        )
        return RunReference(run=run)

    @router.post("/{run}/cancel")
    async def cancel(caller: Calling, run: RunId) -> RunReference:
        """End a run for good; of a finished one nothing changes."""
        await supervisor.cancel(await steered(caller, run), by=caller.principal)
        return RunReference(run=run)

    @router.post("/{run}/resume", status_code=202)
    async def resume(caller: Calling, run: RunId) -> RunReference:
        """Go on with an interrupted run."""
        return RunReference(run=await supervisor.resume(await steered(caller, run)))

    @router.post("/{run}/fork", status_code=202)
    async def fork(caller: Calling, run: RunId, body: ForkRun) -> RunReference:
        """Start a new run that takes over what this one had recorded at a commit."""
        source = await steered(caller, run)
        return RunReference(run=await supervisor.fork(source, at=body.at, run_id=body.run_id))


def _add_following(router: APIRouter, supervisor: RunSupervisor, boards: SeenBoards, ending: Stopping) -> None:
    async def watched(caller: Caller, run: str) -> RunRecord:
        """Return the record of a run that the caller may watch."""
        record = await asyncio.to_thread(RunRecord.load, boards.of(caller), run)
        if not may_read(record.input_label, caller.principal):
            raise PolicyDenied(f"The input of run {run} may not be read by {caller.principal}.")
        return record

    @router.get("/{run}/events")
    async def events(
        caller: Calling,
        run: RunId,
        after: Number = 0,
        wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0,
    ) -> EventList:
        """Return the events after a number, waiting so many seconds for the first of them."""
        record = await watched(caller, run)
        found = supervisor.events(run, after)
        if not found and wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    async for found in numbered_events(supervisor, run, after, ending):
                        if found:
                            break
            record = await watched(caller, run)
        where = Whereabouts()
        if record.status == "running" and not supervisor.executing(run):
            where = await asyncio.to_thread(supervisor.whereabouts, run)
            # Nobody may execute it because it ended after that look.
            record = await watched(caller, run)
        # Of what came meanwhile: who hears of a run that ended without it asks no more.
        found = found or supervisor.events(run, after)
        return EventList(
            run=run,
            status=record.status,
            executing=supervisor.executing(run),
            elsewhere=where.elsewhere,
            waiting=where.waiting,
            events=[event_document(number, event, caller.principal) for number, event in found],
        )

    @router.get("/{run}/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def stream(
        caller: Calling,
        run: RunId,
        after: Number = 0,
        last_event_id: LastEventId = None,
    ) -> EventStream:
        """Follow a run as server-sent events, its tokens among them; ends with ``run`` once nobody executes it."""
        await watched(caller, run)
        return EventStream(_stream(supervisor, run, last_seen(after, last_event_id), ending, caller.principal))


async def _stream(
    supervisor: RunSupervisor, run: str, after: int, stopping: Stopping, reader: str
) -> AsyncGenerator[Item | None]:
    async for events in numbered_events(supervisor, run, after, stopping):
        for after, event in events:
            document = event_document(after, event, reader)
            yield after, document.type, document
        if not events:
            yield None
    record = await asyncio.to_thread(RunRecord.load, supervisor.runtime.board, run)
    yield after, "run", RunDocument.of(record, reader)
