"""LangGraph checkpoints on the board: a graph compiled with this saver survives ``kill -9`` and keeps its history.

Source: LangGraph's ``BaseCheckpointSaver``; checkpoint identifiers are UUIDv6, whose order is that of their making.
:mod:`agentsys.langgraph.addresses` says where things lie, :mod:`agentsys.langgraph.ownership` who may write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from agentsys.blackboard.awaiting import awaitable
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Commit, Transaction
from agentsys.langgraph import removal
from agentsys.langgraph.addresses import CHECKPOINT, HEAD, ROOT, WRITES, Place, thread_topic
from agentsys.langgraph.channels import NOTHING, NewestStates, State, ValueReader, store
from agentsys.langgraph.encoding import decoded, encoded
from agentsys.langgraph.history import channel_history
from agentsys.langgraph.ownership import (
    CLAIM,
    Claim,
    admit,
    claim_of,
    head_value,
    newest,
    owner_of,
    remember_read,
    version_of,
)
from agentsys.langgraph.pending import merged, pending_writes

PRINCIPAL = "langgraph"
Forks: TypeAlias = Literal["refuse", "allow"]
_T = TypeVar("_T")


class BlackboardSaver(BaseCheckpointSaver[str]):
    """Keeps a graph's checkpoints on ``board``, each under ``label``; one commit a checkpoint, durable when it returns.

    Without a label, checkpoints count as shaped by anybody and readable by the owner. With ``forks="refuse"`` a write
    by one who read the thread before somebody else wrote it raises :class:`StaleCheckpoint`; with ``"allow"`` it begins
    a branch, as in LangGraph's own savers.
    """

    def __init__(self, board: Board, *, label: Label | None = None, forks: Forks = "refuse") -> None:
        super().__init__()
        self._board = board
        self._label = label or Label()
        self._forks = forks
        self._states = NewestStates()

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
        commit, state = self._commit(lambda tx: self._put(tx, config, checkpoint, metadata, new_versions))
        return self._kept(config, checkpoint, commit, state)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Commit what a task wrote; what is there stays, unless it is an error, an interrupt or the like.

        Raises :class:`StaleCheckpoint`.
        """
        self._commit(lambda tx: self._put_writes(tx, config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints and writes from the board's present; its log keeps them."""
        self._commit(lambda tx: removal.delete_thread(tx, thread_id, self._label))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that these runs made, and what was written on them. What builds on them stays."""
        self._commit(lambda tx: removal.delete_for_runs(tx, set(run_ids), self._label))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread into another, under their identifiers."""
        self._commit(lambda tx: removal.copy_thread(tx, source_thread_id, target_thread_id, self._label))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but each namespace's newest checkpoint, or with ``"delete"`` all of them.

        Ancestors whose writes a ``DeltaChannel`` needs stay.
        """
        self._commit(lambda tx: removal.prune(tx, thread_ids, strategy, self._label, self.serde))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what the ancestors of a checkpoint wrote to each of ``channels``, and the value it began from."""
        place = Place.of(config)
        transaction = self._board.begin(PRINCIPAL)
        named = get_checkpoint_id(config) or newest(transaction.get(place.topic, place.head))
        return channel_history(transaction, place, named, channels, self.serde)

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
        commit, state = await self._acommit(lambda tx: self._put(tx, config, checkpoint, metadata, new_versions))
        return self._kept(config, checkpoint, commit, state)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._acommit(lambda tx: self._put_writes(tx, config, writes, task_id, task_path))

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
            return None, claim
        reader = ValueReader(transaction, place)
        return self._tuple(transaction, reader, place, entry, claim, keep=named == newest(head)), claim

    def _listed(
        self, config: RunnableConfig | None, wanted: dict[str, Any], before: str | None
    ) -> Iterator[CheckpointTuple]:
        transaction = self._board.begin(PRINCIPAL)
        readers: dict[Place, tuple[ValueReader, Claim]] = {}
        for entry in _checkpoints(transaction, config):
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
            yield self._tuple(transaction, reader, place, entry, claim)

    def _tuple(
        self,
        transaction: Transaction,
        reader: ValueReader,
        place: Place,
        entry: Entry,
        claim: Claim,
        *,
        keep: bool = False,
    ) -> CheckpointTuple:
        body: Any = entry.value
        _, checkpoint = Place.at(entry.topic, entry.key)
        values = reader.values(entry)
        skeleton: Checkpoint = decoded(self.serde, body["checkpoint"])
        if keep:
            self._states.keep(place, entry.key, entry.seq, State(values, skeleton["channel_versions"]))
        for name, value in values.items():
            skeleton["channel_values"][name] = self.serde.loads_typed((value.kind, value.data))
        return CheckpointTuple(
            config=_config(place, checkpoint, claim),
            checkpoint=skeleton,
            metadata=decoded(self.serde, body["metadata"]),
            parent_config=_config(place, body["parent"], claim) if body["parent"] else None,
            pending_writes=pending_writes(transaction.query(place.all_writes(checkpoint)), self.serde),
        )

    def _put(
        self,
        transaction: Transaction,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> State:
        place, parent = Place.of(config), get_checkpoint_id(config)
        owner = self._admitted(transaction, config, place, parent)[1]
        values, state = store(self.serde, checkpoint, new_versions, self._state(transaction, place, parent))
        full = get_checkpoint_metadata(config, metadata)
        skeleton = {**checkpoint, "channel_values": {}}
        body = {
            "parent": parent,
            "run": full.get("run_id"),
            "checkpoint": encoded(self.serde, skeleton),
            "metadata": encoded(self.serde, full),
            "values": values,
        }
        self._write(transaction, place, place.checkpoint(checkpoint["id"]), body, CHECKPOINT)
        self._write(transaction, place, place.head, head_value(checkpoint["id"], owner), HEAD)
        return state

    def _put_writes(
        self,
        transaction: Transaction,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task: str,
        path: str,
    ) -> None:
        place, checkpoint = Place.of(config), get_checkpoint_id(config)
        assert checkpoint is not None
        head, owner = self._admitted(transaction, config, place, checkpoint)
        if owner is not None and owner != owner_of(head):
            self._write(transaction, place, place.head, head_value(newest(head), owner), HEAD)
        key = place.writes(checkpoint, task)
        body = merged(transaction.get(place.topic, key), task, path, writes, self.serde)
        self._write(transaction, place, key, body, WRITES)

    def _admitted(
        self, transaction: Transaction, config: RunnableConfig, place: Place, parent: str | None
    ) -> tuple[Entry | None, str | None]:
        """Return the head that is written on, and the name under which."""
        head = transaction.get(place.topic, place.head)
        claim = claim_of(config, place, parent)
        if self._forks == "refuse":
            admit(head, claim, place, parent)
        return head, None if claim is None else claim.owner

    def _state(self, transaction: Transaction, place: Place, checkpoint: str | None) -> State:
        """Return the state that the next checkpoint is compared with."""
        entry = None if checkpoint is None else transaction.get(place.topic, place.checkpoint(checkpoint))
        if entry is None:
            return NOTHING
        known = self._states.get(place, entry)
        if known is not None:
            return known
        body: Any = entry.value
        versions = decoded(self.serde, body["checkpoint"])["channel_versions"]
        return State(ValueReader(transaction, place).values(entry), versions)

    def _write(self, transaction: Transaction, place: Place, key: str, value: Any, kind: str) -> None:
        transaction.put(place.topic, key, value, type=kind, label=self._label, derived_from=())

    def _kept(self, config: RunnableConfig, checkpoint: Checkpoint, commit: Commit, state: State) -> RunnableConfig:
        place = Place.of(config)
        self._states.keep(place, place.checkpoint(checkpoint["id"]), commit.seq, state)
        return _config(place, checkpoint["id"], None)

    def _commit(self, write: Callable[[Transaction], _T]) -> tuple[Commit, _T]:
        while True:
            transaction = self._board.begin(PRINCIPAL)
            result = write(transaction)
            try:
                return self._board.commit(transaction), result
            except Conflict:
                # What to write depends on nothing but what is there now, so it is decided again.
                continue

    async def _acommit(self, write: Callable[[Transaction], _T]) -> tuple[Commit, _T]:
        while True:
            transaction = self._board.begin(PRINCIPAL)
            result = write(transaction)
            try:
                # Not in a thread: a pool of them would bound how many commits share one trip to the disk.
                return await awaitable(self._board.submit(transaction)), result
            except Conflict:
                continue


def _checkpoints(transaction: Transaction, config: RunnableConfig | None) -> Sequence[Entry]:
    """Return the checkpoints that ``config`` speaks of, the newest first."""
    if config is None:
        found = transaction.query(Predicate(topic_prefix=ROOT, type=CHECKPOINT))
    elif config["configurable"].get("checkpoint_ns") is None:
        topic = thread_topic(str(config["configurable"]["thread_id"]))
        found = transaction.query(Predicate(topic=topic, type=CHECKPOINT))
    else:
        found = transaction.query(Place.of(config).checkpoints())
    named = config and get_checkpoint_id(config)
    identified = [(Place.at(entry.topic, entry.key)[1], entry) for entry in found]
    kept = [item for item in identified if named is None or item[0] == named]
    return [entry for _, entry in sorted(kept, key=lambda item: item[0], reverse=True)]


def _config(place: Place, checkpoint: str, claim: Claim | None) -> RunnableConfig:
    configurable = {"thread_id": place.thread, "checkpoint_ns": place.namespace, "checkpoint_id": checkpoint}
    if claim is not None:
        configurable[CLAIM] = claim.text(place)
    return {"configurable": configurable}
