"""LangGraph checkpoints on the board: a graph compiled with this saver survives ``kill -9`` and keeps its history.

::

    langgraph/{thread}/checkpoints   {namespace}:{checkpoint}              one checkpoint, its values included
    langgraph/{thread}/writes        {namespace}:{checkpoint}:{task}:{n}   what a task wrote before its superstep ended

Threads and namespaces are percent-encoded, so that none can reach into another. Source: LangGraph's
``BaseCheckpointSaver``; checkpoint identifiers are UUIDv6, whose order is that of their making.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction

ROOT = "langgraph/"
PRINCIPAL = "langgraph"
NEGATIVE = 1000
"""Added to the numbers of special writes, which are negative, so that all numbers sort as text."""


class BlackboardSaver(BaseCheckpointSaver[str]):
    """Keeps a graph's checkpoints on ``board``, each under ``label``; one commit a checkpoint, durable when it returns.

    Without a label, checkpoints count as shaped by anybody and readable by the owner.
    """

    def __init__(self, board: Board, *, label: Label | None = None) -> None:
        super().__init__()
        self._board = board
        self._label = label or Label()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that ``config`` names, or the thread's newest one."""
        thread, namespace = _place(config)
        named = _config(thread, namespace, get_checkpoint_id(config))
        return next(self.list(named, limit=1), None)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, the newest first; without ``config`` those of all threads."""
        return islice(self._listed(config, filter or {}, get_checkpoint_id(before) if before else None), limit)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Commit a checkpoint with its values, and return the config that names it."""
        thread, namespace = _place(config)
        value = {
            "parent": get_checkpoint_id(config),
            "checkpoint": self._encoded(checkpoint),
            "metadata": self._encoded(get_checkpoint_metadata(config, metadata)),
        }

        def write(transaction: Transaction) -> None:
            key = f"{namespace}:{checkpoint['id']}"
            transaction.put(f"{thread}/checkpoints", key, value, type="checkpoint", label=self._label)

        self._commit(write)
        return _config(thread, namespace, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Commit what a task wrote; what is there stays, unless it is an error, an interrupt or the like."""
        thread, namespace = _place(config)
        stem = f"{namespace}:{get_checkpoint_id(config)}:{task_id}"

        def write(transaction: Transaction) -> None:
            for position, (channel, value) in enumerate(writes):
                number = WRITES_IDX_MAP.get(channel, position)
                key = f"{stem}:{number + NEGATIVE:06d}"
                if number >= 0 and transaction.get(f"{thread}/writes", key) is not None:
                    continue
                body = {"task": task_id, "path": task_path, "channel": channel, "value": self._encoded(value)}
                transaction.put(f"{thread}/writes", key, body, type="checkpoint_write", label=self._label)

        self._commit(write)

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints and writes from the board's present; its log keeps them."""

        def delete(transaction: Transaction) -> None:
            for part in ("checkpoints", "writes"):
                for entry in transaction.query(Predicate(topic=f"{ROOT}{_quoted(thread_id)}/{part}")):
                    transaction.delete(entry.topic, entry.key, label=self._label)

        self._commit(delete)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        found = self.list(config, filter=filter, before=before, limit=limit)
        for item in await asyncio.to_thread(tuple, found):
            yield item

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self.delete_thread, thread_id)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return the channel's next version: numbers that sort as text."""
        return f"{int(current or 0) + 1:016d}"

    def _listed(
        self, config: RunnableConfig | None, wanted: dict[str, Any], before: str | None
    ) -> Iterator[CheckpointTuple]:
        for entry in self._checkpoints(config):
            if before is not None and entry.key.rpartition(":")[2] >= before:
                continue
            body: Any = entry.value
            metadata = self._decoded(body["metadata"])
            if all(metadata.get(name) == value for name, value in wanted.items()):
                yield self._tuple(entry, metadata)

    def _checkpoints(self, config: RunnableConfig | None) -> Sequence[Entry]:
        if config is None:
            found = self._board.query(Predicate(topic_prefix=ROOT, type="checkpoint"))
            return sorted(found, key=lambda entry: entry.key.rpartition(":")[2], reverse=True)
        topic = f"{_thread(config)}/checkpoints"
        namespace = config["configurable"].get("checkpoint_ns")
        if namespace is None:
            found = self._board.query(Predicate(topic=topic))
        elif (checkpoint := get_checkpoint_id(config)) is not None:
            entry = self._board.get(topic, f"{_quoted(namespace)}:{checkpoint}")
            return [] if entry is None else [entry]
        else:
            stem = f"{_quoted(namespace)}:"
            found = self._board.query(Predicate(topic=topic, key_from=stem, key_to=stem[:-1] + ";"))
        named = get_checkpoint_id(config)
        kept = [entry for entry in found if named is None or entry.key.rpartition(":")[2] == named]
        return sorted(kept, key=lambda entry: entry.key.rpartition(":")[2], reverse=True)

    def _tuple(self, entry: Entry, metadata: CheckpointMetadata) -> CheckpointTuple:
        body: Any = entry.value
        thread = entry.topic.removesuffix("/checkpoints")
        namespace, _, checkpoint = entry.key.rpartition(":")
        stem = f"{entry.key}:"
        writes = self._board.query(Predicate(topic=f"{thread}/writes", key_from=stem, key_to=stem[:-1] + ";"))
        return CheckpointTuple(
            config=_config(thread, namespace, checkpoint),
            checkpoint=self._decoded(body["checkpoint"]),
            metadata=metadata,
            parent_config=_config(thread, namespace, body["parent"]) if body["parent"] else None,
            pending_writes=[self._pending(write) for write in sorted(writes, key=_order)],
        )

    def _pending(self, entry: Entry) -> tuple[str, str, Any]:
        body: Any = entry.value
        return body["task"], body["channel"], self._decoded(body["value"])

    def _commit(self, write: Callable[[Transaction], None]) -> None:
        while True:
            transaction = self._board.begin(PRINCIPAL)
            write(transaction)
            try:
                self._board.commit(transaction)
            except Conflict:
                # What to write depends on nothing but what is there now, so it is decided again.
                continue
            return

    def _encoded(self, value: Any) -> Json:
        kind, data = self.serde.dumps_typed(value)
        return [kind, base64.b64encode(data).decode("ascii")]

    def _decoded(self, encoded: Any) -> Any:
        return self.serde.loads_typed((encoded[0], base64.b64decode(encoded[1])))


def _order(entry: Entry) -> tuple[str, str]:
    body: Any = entry.value
    return body["path"], entry.key


def _thread(config: RunnableConfig) -> str:
    return ROOT + _quoted(str(config["configurable"]["thread_id"]))


def _place(config: RunnableConfig) -> tuple[str, str]:
    return _thread(config), _quoted(config["configurable"].get("checkpoint_ns", ""))


def _config(thread: str, namespace: str, checkpoint: str | None) -> RunnableConfig:
    configurable = {
        "thread_id": unquote(thread.removeprefix(ROOT)),
        "checkpoint_ns": unquote(namespace),
        "checkpoint_id": checkpoint,
    }
    return {"configurable": configurable}


def _quoted(name: str) -> str:
    return quote(name, safe="")
