"""A2A tasks on the board, one topic for each client. A task's identifier is that of its run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from a2a.server.context import ServerCallContext
from a2a.server.tasks.inmemory_task_store import InMemoryTaskStore
from a2a.server.tasks.task_store import TaskStore
from a2a.types.a2a_pb2 import ListTasksRequest, ListTasksResponse, Task
from google.protobuf.json_format import MessageToDict, ParseDict

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.journal import submit
from agentsys.protocols.a2a.labels import label_from_client
from agentsys.topics import RESERVED_PREFIX, RUNS

TASKS: Final = f"{RESERVED_PREFIX}a2a/tasks/"
"""Topics of the tasks, by client; reserved, so that no agent reads or forges them."""

Refresh = Callable[[Task, ServerCallContext], Awaitable[Task]]


def client_of(context: ServerCallContext | None) -> str:
    """Return the caller's name as the server authenticated it."""
    if context is None or not context.user.is_authenticated:
        return "anonymous"
    return context.user.user_name or "anonymous"


class BoardTaskStore(TaskStore):
    """Keeps each client's tasks; what is read is first brought up to date with the run by ``refresh``."""

    def __init__(self, board: Board, owner: str, refresh: Refresh) -> None:
        self._board = board
        self._owner = owner
        self._refresh = refresh

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Commit the task under its client."""
        client = client_of(context)
        run = await asyncio.to_thread(self._board.get, RUNS, task.id)
        # What the run found out is in the task's artifacts, so the task is labelled like the run.
        label = self._label(client).join(*([run.label] if run else []))
        transaction = await asyncio.to_thread(self._board.begin, "runtime")
        transaction.put(TASKS + client, task.id, MessageToDict(task), type="a2a-task", label=label)
        await submit(self._board, transaction)

    async def get(self, task_id: str, context: ServerCallContext) -> Task | None:
        """Return the client's own task; another client's is as unknown as one that never was."""
        kept = await self.kept(task_id, context)
        return None if kept is None else await self._refresh(kept, context)

    async def kept(self, task_id: str, context: ServerCallContext) -> Task | None:
        """Return the client's own task as it was last saved, whatever has become of its run."""
        if not task_id:
            return None
        entry = await asyncio.to_thread(self._board.get, TASKS + client_of(context), task_id)
        return None if entry is None else ParseDict(entry.value, Task())

    async def list(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """Return a page of the client's tasks, the last changed first."""
        found = await asyncio.to_thread(self._board.query, Predicate(topic=TASKS + client_of(context)))
        # Filters, order and page tokens are the library's own.
        page = InMemoryTaskStore()
        for entry in found:
            await page.save(await self._refresh(ParseDict(entry.value, Task()), context), context)
        return await page.list(params, context)

    async def delete(self, task_id: str, context: ServerCallContext) -> None:
        """Delete the client's task."""
        client = client_of(context)

        def deleting() -> Transaction:
            transaction = self._board.begin("runtime")
            transaction.delete(TASKS + client, task_id, label=self._label(client))
            return transaction

        await submit(self._board, await asyncio.to_thread(deleting))

    def _label(self, client: str) -> Label:
        return label_from_client(client, self._owner, {})
