"""LangGraph checkpoints on the board: a graph compiled with this saver survives ``kill -9`` and keeps its history.

Source: LangGraph's ``BaseCheckpointSaver``; checkpoint identifiers are UUIDv6, whose order is that of their making.
:mod:`agentsys.langgraph.addresses` says where things lie, :mod:`agentsys.langgraph.ownership` who may write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph import removal
from agentsys.langgraph.acting import deliver, deliver_search, raised
from agentsys.langgraph.addresses import CHECKPOINT, ROOT, Place, thread_topic
from agentsys.langgraph.channels import State, ValueReader
from agentsys.langgraph.encoding import decoded
from agentsys.langgraph.history import channel_history
from agentsys.langgraph.newest import NewestCheckpoints
from agentsys.langgraph.operations import PutCheckpoint, PutWrites, Writing
from agentsys.langgraph.ownership import CLAIM, Claim, newest, remember_read, version_of
from agentsys.langgraph.pending import pending_writes
from agentsys.langgraph.turns import PRINCIPAL, Turns

Forks: TypeAlias = Literal["refuse", "allow"]


class BlackboardSaver(BaseCheckpointSaver[str]):
    """Keeps a graph's checkpoints on ``board``, each under ``label``; one commit a checkpoint, durable when it returns.

    Without a label, checkpoints count as shaped by anybody and readable by the owner. Inside a run, an actor's label is
    raised by what it reads, and joined to what it writes. With ``forks="refuse"`` a write by one who read the thread
    before somebody else wrote it raises :class:`StaleCheckpoint`; with ``"allow"`` it begins a branch, as in
    LangGraph's own savers.
    """

    def __init__(self, board: Board, *, label: Label | None = None, forks: Forks = "refuse") -> None:
        super().__init__()
        self._board = board
        self._label = label or Label()
        self._forks = forks
        self._known = NewestCheckpoints()
        self._turns = Turns(board, self._known)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that ``config`` names, or the thread's newest one."""
        found, claim = self._read(config)
        remember_read(Place.of(config), claim if found is None else None)
        return found

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
        """Commit a checkpoint, and return the config that names it. Raises :class:`StaleCheckpoint`."""
        operation = PutCheckpoint.of(self._writing, config, checkpoint, metadata, new_versions)
        self._turns.commit(operation)
        return _config(operation.place, checkpoint["id"], None)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Commit what a task wrote; what is there stays, unless it is an error, an interrupt or the like.

        Raises :class:`StaleCheckpoint`.
        """
        self._turns.commit(PutWrites.of(self._writing, config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints and writes from the board's present; its log keeps them."""
        self._commit(lambda tx, label: removal.delete_thread(tx, thread_id, label))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that these runs made, and what was written on them. What builds on them stays."""
        self._commit(lambda tx, label: removal.delete_for_runs(tx, set(run_ids), label))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread into another, under their identifiers."""
        source = Predicate(topic=thread_topic(source_thread_id))

        def copy(tx: Transaction, label: Label) -> None:
            removal.copy_thread(tx, self._board.query(source, at=tx.snapshot), target_thread_id, label)

        self._commit(copy)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but each namespace's newest checkpoint, or with ``"delete"`` all of them.

        Ancestors whose writes a ``DeltaChannel`` needs stay.
        """
        self._commit(lambda tx, label: removal.prune(tx, thread_ids, strategy, label, self.serde))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what the ancestors of a checkpoint wrote to each of ``channels``, and the value it began from."""
        place = Place.of(config)
        transaction = self._board.begin(PRINCIPAL)
        named = get_checkpoint_id(config) or newest(transaction.get(place.topic, place.head))
        found = channel_history(transaction, place, named, channels, self.serde)
        deliver(transaction.reads_label)
        return found

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        found, claim = await asyncio.to_thread(self._read, config)
        remember_read(Place.of(config), claim if found is None else None)
        return found

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
        operation = PutCheckpoint.of(self._writing, config, checkpoint, metadata, new_versions)
        await self._turns.ask(operation)
        return _config(operation.place, checkpoint["id"], None)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._turns.ask(PutWrites.of(self._writing, config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await asyncio.to_thread(lambda: self.prune(thread_ids, strategy=strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await asyncio.to_thread(lambda: self.get_delta_channel_history(config=config, channels=channels))

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return the channel's next version: numbers that sort as text."""
        return f"{int(current or 0) + 1:016d}"

    def _read(self, config: RunnableConfig) -> tuple[CheckpointTuple | None, Claim]:
        place = Place.of(config)
        transaction = self._board.begin(PRINCIPAL)
        head = transaction.get(place.topic, place.head)
        claim = Claim(version_of(head))
        named = get_checkpoint_id(config) or newest(head)
        entry = None if named is None else transaction.get(place.topic, place.checkpoint(named))
        if entry is None:
            deliver(transaction.reads_label)
            return None, claim
        found, state, writes = self._tuple(transaction, ValueReader(transaction, place), place, entry, claim)
        if head is not None and named == newest(head):
            self._known.read(place, head, entry, state, writes)
        deliver(transaction.reads_label)
        return found, claim

    def _listed(
        self, config: RunnableConfig | None, wanted: dict[str, Any], before: str | None
    ) -> Iterator[CheckpointTuple]:
        transaction = self._board.begin(PRINCIPAL)
        readers: dict[Place, tuple[ValueReader, Claim]] = {}
        predicate = _predicate(config)
        checkpoints = _newest_first(transaction.query(predicate), config)
        deliver_search(self._board, predicate, transaction.snapshot)
        for entry in checkpoints:
            deliver(transaction.reads_label)
            place, checkpoint = Place.at(entry.topic, entry.key)
            if before is not None and checkpoint >= before:
                continue
            body: Any = entry.value
            metadata = decoded(self.serde, body["metadata"])
            if any(metadata.get(name) != value for name, value in wanted.items()):
                continue
            if place not in readers:
                head = transaction.get(place.topic, place.head)
                readers[place] = ValueReader(transaction, place), Claim(version_of(head))
            reader, claim = readers[place]
            found, _, _ = self._tuple(transaction, reader, place, entry, claim)
            # Of what it is put together from, and of what tasks wrote on it.
            deliver(transaction.reads_label)
            yield found

    def _tuple(
        self, transaction: Transaction, reader: ValueReader, place: Place, entry: Entry, claim: Claim
    ) -> tuple[CheckpointTuple, State, Sequence[Entry]]:
        """Return the checkpoint in ``entry``, its state, and what tasks wrote on it."""
        body: Any = entry.value
        _, checkpoint = Place.at(entry.topic, entry.key)
        skeleton: Checkpoint = decoded(self.serde, body["checkpoint"])
        writes = transaction.query(place.all_writes(checkpoint))
        # Else each value is put together out of the differences that up to 32 checkpoints hold.
        state = self._known.state(place, entry) or State(reader.values(entry), skeleton["channel_versions"])
        for name, value in state.values.items():
            skeleton["channel_values"][name] = self.serde.loads_typed((value.kind, value.data))
        found = CheckpointTuple(
            config=_config(place, checkpoint, claim),
            checkpoint=skeleton,
            metadata=decoded(self.serde, body["metadata"]),
            parent_config=_config(place, body["parent"], claim) if body["parent"] else None,
            pending_writes=pending_writes(writes, self.serde),
        )
        return found, state, writes

    @property
    def _writing(self) -> Writing:
        # LangGraph copies savers and gives the copies another serialiser.
        return Writing(self.serde, raised(self._label), self._forks == "allow", self._known)

    def _commit(self, write: Callable[[Transaction, Label], None]) -> None:
        while True:
            transaction = self._board.begin(PRINCIPAL)
            write(transaction, raised(self._label))
            try:
                self._board.commit(transaction)
                return
            except Conflict:
                # What to write depends on nothing but what is there now, so it is decided again.
                continue


def _predicate(config: RunnableConfig | None) -> Predicate:
    """Return what the checkpoints match of which ``config`` speaks."""
    if config is None:
        return Predicate(topic_prefix=ROOT, type=CHECKPOINT)
    if config["configurable"].get("checkpoint_ns") is None:
        return Predicate(topic=thread_topic(str(config["configurable"]["thread_id"])), type=CHECKPOINT)
    return Place.of(config).checkpoints()


def _newest_first(found: Sequence[Entry], config: RunnableConfig | None) -> Sequence[Entry]:
    """Return the checkpoints, or the one that ``config`` names, the newest first."""
    named = config and get_checkpoint_id(config)
    identified = [(Place.at(entry.topic, entry.key)[1], entry) for entry in found]
    kept = [item for item in identified if named is None or item[0] == named]
    return [entry for _, entry in sorted(kept, key=lambda item: item[0], reverse=True)]


def _config(place: Place, checkpoint: str, claim: Claim | None) -> RunnableConfig:
    configurable = {"thread_id": place.thread, "checkpoint_ns": place.namespace, "checkpoint_id": checkpoint}
    if claim is not None:
        configurable[CLAIM] = claim.text(place)
    return {"configurable": configurable}
