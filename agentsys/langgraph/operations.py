"""What the saver writes, as operations that a transaction carries out: prepared once, repeated where it conflicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.addresses import CHECKPOINT, HEAD, WRITES, Place
from agentsys.langgraph.channels import NOTHING, State, ValueReader, store
from agentsys.langgraph.encoding import decoded, encoded
from agentsys.langgraph.newest import NewestCheckpoints
from agentsys.langgraph.ownership import Claim, StaleCheckpoint, admit, claim_of, head_value, newest, owner_of
from agentsys.langgraph.pending import Numbered, merged, numbered


@dataclass(slots=True)
class Writing:
    """How a saver writes: under which label, with forks or without, and what it knows of each lineage."""

    serde: SerializerProtocol
    label: Label
    forks_allowed: bool
    known: NewestCheckpoints

    def admitted_head(self, tx: Transaction, place: Place, claim: Claim | None, parent: str | None) -> Entry | None:
        """Return the head, if who holds ``claim`` may write on it. Raises :class:`StaleCheckpoint`."""
        known = self.known.head(place)
        if known is not None and tx.written(place.topic, place.head) is None:
            try:
                self._admit(known, claim, place, parent)
                tx.rely_on(place.topic, place.head, known)
            except StaleCheckpoint:
                # What is known may be old; what stands on the board decides.
                self.known.forget(place, known)
        head = tx.get(place.topic, place.head)
        self._admit(head, claim, place, parent)
        return head

    def write(self, tx: Transaction, place: Place, key: str, value: Json, kind: str) -> None:
        label = self.label.join(tx.reads_label)
        tx.put(place.topic, key, value, type=kind, label=label, derived_from=())

    def _admit(self, head: Entry | None, claim: Claim | None, place: Place, parent: str | None) -> None:
        if not self.forks_allowed:
            admit(head, claim, place, parent)


@dataclass(slots=True)
class PutCheckpoint:
    """A checkpoint on top of ``parent``; ``skeleton`` and ``metadata`` are encoded."""

    writing: Writing
    place: Place
    parent: str | None
    claim: Claim | None
    checkpoint: Checkpoint
    new_versions: ChannelVersions
    run: Json
    skeleton: Json
    metadata: Json

    @staticmethod
    def of(
        writing: Writing,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> PutCheckpoint:
        place, parent = Place.of(config), get_checkpoint_id(config)
        full: dict[str, Any] = {**get_checkpoint_metadata(config, metadata)}
        skeleton: Checkpoint = {**checkpoint, "channel_values": {}}
        return PutCheckpoint(
            writing,
            place,
            parent,
            claim_of(config, place, parent),
            checkpoint,
            new_versions,
            full.get("run_id"),
            encoded(writing.serde, skeleton),
            encoded(writing.serde, full),
        )

    def write(self, tx: Transaction) -> State:
        place, identifier = self.place, self.checkpoint["id"]
        self.writing.admitted_head(tx, place, self.claim, self.parent)
        before = self._before(tx)
        values, state = store(self.writing.serde, self.checkpoint, self.new_versions, before)
        body: Json = {
            "parent": self.parent,
            "run": self.run,
            "checkpoint": self.skeleton,
            "metadata": self.metadata,
            "values": values,
        }
        owner = None if self.claim is None else self.claim.owner
        self.writing.write(tx, place, place.checkpoint(identifier), body, CHECKPOINT)
        self.writing.write(tx, place, place.head, head_value(identifier, owner), HEAD)
        return state

    def keep(self, commit: Commit, state: State) -> None:
        """Take note of what was committed."""
        self.writing.known.put(self.place, self.checkpoint["id"], commit, state)

    def _before(self, tx: Transaction) -> State:
        """Return the parent's state, with which this checkpoint is compared."""
        if self.parent is None:
            return NOTHING
        key = self.place.checkpoint(self.parent)
        self.writing.known.rely(tx, self.place, key, self.parent)
        entry = tx.get(self.place.topic, key)
        if entry is None:
            return NOTHING
        known = self.writing.known.state(self.place, entry)
        if known is not None:
            return known
        body: Any = entry.value
        versions = decoded(self.writing.serde, body["checkpoint"])["channel_versions"]
        return State(ValueReader(tx, self.place).values(entry), versions)


@dataclass(slots=True)
class PutWrites:
    """What a task wrote on ``checkpoint``."""

    writing: Writing
    place: Place
    parent: str
    claim: Claim | None
    task: str
    path: str
    writes: Sequence[Numbered]

    @staticmethod
    def of(
        writing: Writing, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, path: str
    ) -> PutWrites:
        place, checkpoint = Place.of(config), get_checkpoint_id(config)
        assert checkpoint is not None
        claim = claim_of(config, place, checkpoint)
        return PutWrites(writing, place, checkpoint, claim, task, path, numbered(writes, writing.serde))

    def write(self, tx: Transaction) -> None:
        place = self.place
        head = self.writing.admitted_head(tx, place, self.claim, self.parent)
        owner = None if self.claim is None else self.claim.owner
        if owner is not None and owner != owner_of(head):
            self.writing.write(tx, place, place.head, head_value(newest(head), owner), HEAD)
        key = place.writes(self.parent, self.task)
        self.writing.known.rely(tx, place, key, self.parent)
        body = merged(tx.get(place.topic, key), self.task, self.path, self.writes)
        self.writing.write(tx, place, key, body, WRITES)

    def keep(self, commit: Commit, _: None) -> None:
        """Take note of what was committed."""
        self.writing.known.written(self.place, self.parent, commit)
