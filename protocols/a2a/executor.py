"""Runs behind tasks: a message starts a run or answers its question, the run's progress becomes the task's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types.a2a_pb2 import Message, SendMessageRequest, Task, TaskState, TaskStatus
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import MessageToDict, SerializeToJsonError

from agentsys import topics
from agentsys.blackboard.entries import Json
from agentsys.blackboard.storage import BoardFull, StorageFailed
from agentsys.errors import RunError
from agentsys.events import TokensStreamed
from agentsys.protocols.a2a.labels import label_from_client, principal_of_client
from agentsys.protocols.a2a.outcomes import agent_message, concluded, outcome_of
from agentsys.protocols.a2a.parts import plain, value_of
from agentsys.protocols.a2a.tasks import BoardTaskStore, client_of
from agentsys.protocols.offers import offered_workflows
from agentsys.runs import PRINCIPAL, RunRecord, RunResult, UnknownRun
from agentsys.runtime import Runtime
from agentsys.supervisor import INTERRUPTIONS, RunSupervisor

SKILL: Final = "skill"
"""Key in a message's or request's metadata that names the skill wanted."""

ELSEWHERE_SECONDS: Final = 0.5
"""How soon it is seen that another process executes a task's run no more."""

ENDED: Final = frozenset(
    {
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
    }
)


class RunExecutor(AgentExecutor):
    """Executes each task as the run of the same identifier."""

    def __init__(self, runtime: Runtime, supervisor: RunSupervisor) -> None:
        self._runtime = runtime
        self._supervisor = supervisor
        self._followed: set[str] = set()
        self.store = BoardTaskStore(runtime.board, runtime.policy.owner, self._refresh)

    def check(self, request: SendMessageRequest) -> None:
        """Raise what a message is refused for, before there is a task of it."""
        try:
            MessageToDict(request)
        except SerializeToJsonError as error:
            raise InvalidParamsError(f"The message is no JSON: {error}") from error
        if not request.message.task_id:
            self._workflow(request.message, plain(request.metadata))
            value_of(request.message.parts)

    def follows(self, task_id: str) -> bool:
        """Whether the task's progress is being published right now."""
        return task_id in self._followed

    async def goes_on(self, task_id: str) -> bool:
        """Whether some process executes the task's run."""
        here = self._supervisor.executing(task_id)
        return here or (await asyncio.to_thread(self._supervisor.whereabouts, task_id)).elsewhere

    async def wait(self, task_id: str) -> RunResult:
        """Return the task's run as it stands once no process executes it."""
        while True:
            with suppress(*INTERRUPTIONS):
                await self._supervisor.wait(task_id)
            with suppress(StorageFailed):
                if not await self.goes_on(task_id):
                    return RunResult(await asyncio.to_thread(RunRecord.load, self._runtime.board, task_id))
            await asyncio.sleep(ELSEWHERE_SECONDS)

    async def end(self, task_id: str, context: ServerCallContext | None) -> None:
        """End the task's run for good, as its client wants."""
        # A run that had ended, or had not begun, is cancelled for its client all the same.
        with suppress(RunError):
            await self._supervisor.cancel(task_id, by=principal_of_client(client_of(context)))

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Start the task's run, or go on with it, and publish its progress until it ends or asks."""
        task_id, context_id, message = context.task_id or "", context.context_id or "", context.message
        if message is None:
            raise InvalidParamsError("The request holds no message.")
        updater = TaskUpdater(event_queue, task_id, context_id)
        client = client_of(context.call_context)
        self._followed.add(task_id)
        try:
            if context.current_task is None:
                workflow, value = self._workflow(message, context.metadata), value_of(message.parts)
                submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
                submitted.timestamp.GetCurrentTime()
                await event_queue.enqueue_event(
                    Task(id=task_id, context_id=context_id, status=submitted, history=[message])
                )
                await self._start(task_id, workflow, value, client, message)
            else:
                await self._resume(task_id)
            await updater.start_work()
            await self._follow(updater, client)
        finally:
            self._followed.discard(task_id)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Cancel the task's run; one that has just ended keeps its outcome, which may not have been told yet."""
        task_id = context.task_id or ""
        await self.end(task_id, context.call_context)
        updater = TaskUpdater(event_queue, task_id, context.context_id or "")
        try:
            record = await asyncio.to_thread(RunRecord.load, self._runtime.board, task_id)
        except UnknownRun:
            await updater.cancel()
        else:
            await self._conclude(updater, RunResult(record), client_of(context.call_context))

    def _workflow(self, message: Message, request: dict[str, Any]) -> str:
        known = offered_workflows(self._runtime)
        wanted = plain(message.metadata).get(SKILL) or request.get(SKILL)
        if wanted is None and len(known) == 1:
            return next(iter(known))
        if not isinstance(wanted, str) or wanted not in known:
            skills = ", ".join(sorted(known)) or "none"
            raise InvalidParamsError(f"Name a skill in the message's metadata, under {SKILL!r}; there are: {skills}.")
        return wanted

    async def _start(self, task_id: str, workflow: str, value: Any, client: str, message: Message) -> None:
        label = label_from_client(client, self._runtime.policy.owner, plain(message.metadata))
        origin: dict[str, Json] = {"face": "a2a", "client": client}
        if ":" in client:
            origin[PRINCIPAL] = client
        await self._supervisor.start(workflow, value, label=label, run_id=task_id, origin=origin)

    async def _follow(self, updater: TaskUpdater, client: str) -> None:
        seen, goes_on = 0, True
        while goes_on:
            async for number, event in self._supervisor.stream(updater.task_id, seen):
                seen = number
                if not isinstance(event, TokensStreamed):
                    # Only what kind of thing happened: names and values of a run may be more private than its answer.
                    kind = type(event).__name__
                    await updater.update_status(TaskState.TASK_STATE_WORKING, metadata={"event": kind})
            result = await self.wait(updater.task_id)
            if result.status != "running":
                await self._conclude(updater, result, client)
                return
            # What the end of this server interrupts goes on when its task is next asked for.
            try:
                goes_on = await self._resume(updater.task_id)
            except (StorageFailed, BoardFull):
                await asyncio.sleep(ELSEWHERE_SECONDS)

    async def _conclude(self, updater: TaskUpdater, result: RunResult, client: str) -> None:
        outcome = outcome_of(result, client, self._runtime.policy)
        artifact = outcome.artifact
        if artifact is not None:
            await updater.add_artifact(
                list(artifact.parts),
                artifact.artifact_id,
                artifact.name,
                plain(artifact.metadata),
                last_chunk=True,
                extensions=list(artifact.extensions),
            )
        await updater.update_status(outcome.state, self._say(updater, outcome.reason) if outcome.reason else None)

    @staticmethod
    def _say(updater: TaskUpdater, text: str) -> Message:
        return agent_message(updater.task_id, updater.context_id, text)

    async def _refresh(self, task: Task, context: ServerCallContext) -> Task:
        """Return a stored task as its run stands: it may have ended, or have been interrupted, without us."""
        entry = await asyncio.to_thread(self._runtime.board.get, topics.RUNS, task.id)
        if task.status.state in ENDED or entry is None or self.follows(task.id):
            return task
        record = RunRecord.of(entry)
        if record.status == "running":
            await self._resume(task.id)
            return task
        ended = concluded(task, outcome_of(RunResult(record), client_of(context), self._runtime.policy))
        await self.store.save(ended, context)
        return ended

    async def _resume(self, task_id: str) -> bool:
        """Go on with the task's run if no process does; return whether one does then."""
        if self._supervisor.executing(task_id):
            return True
        try:
            await self._supervisor.resume(task_id)
        except RunError:
            # Where its workflow is gone, or another process executes it, the task says no more than it did.
            return await self.goes_on(task_id)
        return True
