"""The values of a checkpoint's channels: only what changed is stored, and of what grew only the growth.

In a checkpoint's entry, ``values`` maps each channel to one of::

    {"at": CHECKPOINT}                                            unchanged since that checkpoint, which holds it
    {"kind", "data"}                                              whole
    {"kind", "data", "base": CHECKPOINT, "copy": [START, LENGTH], "split": N}
        the first N bytes of data, a run copied from the value that the base holds, the rest of data
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from langgraph.checkpoint.base import ChannelVersions, Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol

from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.records import quickly
from agentsys.blackboard.storage import BoardCorrupt
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.addresses import Place
from agentsys.langgraph.deltas import Delta, difference
from agentsys.langgraph.encoding import packed, unpacked

LONGEST_CHAIN: Final = 32
"""Differences read to rebuild a value; the next one is stored whole."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A channel's value as bytes of ``kind``. The checkpoint ``holder`` stores it, ``chain`` differences deep."""

    kind: str
    data: bytes
    holder: str
    chain: int


new_stored: Final = quickly(Stored)
Values: TypeAlias = dict[str, Stored]


@dataclass(frozen=True, slots=True)
class State:
    """The channels of one checkpoint: their values, and the versions that LangGraph counts."""

    values: Values
    versions: Mapping[str, Any]

    @property
    def size(self) -> int:
        return sum(len(value.data) for value in self.values.values())


NOTHING: Final = State({}, {})


def store(
    serde: SerializerProtocol,
    checkpoint: Checkpoint,
    new_versions: ChannelVersions,
    before: State,
) -> tuple[dict[str, Json], State]:
    """Return the ``values`` of ``checkpoint``'s entry, and its state; ``before`` is its parent's."""
    versions = checkpoint["channel_versions"]
    body: dict[str, Json] = {}
    values: Values = {}
    for channel, value in checkpoint["channel_values"].items():
        old = before.values.get(channel)
        version = None if channel in new_versions else versions.get(channel)
        if old is not None and version is not None and version == before.versions.get(channel):
            body[channel], values[channel] = {"at": old.holder}, old
            continue
        kind, data = serde.dumps_typed(value)
        body[channel], values[channel] = _new(checkpoint["id"], kind, data, old)
    return body, State(values, versions)


def whole(values: Values, holder: str) -> dict[str, Json]:
    """Return the ``values`` of an entry that depends on no other checkpoint."""
    return {channel: _new(holder, value.kind, value.data, None)[0] for channel, value in values.items()}


def holders(body: Any) -> set[str]:
    """Return the checkpoints without which the values of an entry cannot be read."""
    return {named for record in body["values"].values() if (named := record.get("at") or record.get("base"))}


class ValueReader:
    """Rebuilds the values of a lineage's checkpoints as one transaction sees them."""

    def __init__(self, transaction: Transaction, place: Place) -> None:
        self._transaction = transaction
        self._place = place
        self._read: dict[tuple[str, str], Stored] = {}

    def values(self, entry: Entry) -> Values:
        """Return all values of the checkpoint in ``entry``."""
        body: Any = entry.value
        return {channel: self.value(entry, channel) for channel in body["values"]}

    def value(self, entry: Entry, channel: str) -> Stored:
        """Return one value of the checkpoint in ``entry``. Raises :class:`BoardCorrupt` where a part is missing."""
        body: Any = entry.value
        record = body["values"][channel]
        if "at" in record:
            return self._held(record["at"], channel)
        data = unpacked(record["data"])
        chain = 0
        if "base" in record:
            base = self._held(record["base"], channel)
            (start, length), split = record["copy"], record["split"]
            data, chain = Delta(start, length, data[:split], data[split:]).apply(base.data), base.chain + 1
        _, checkpoint = Place.at(entry.topic, entry.key)
        return new_stored(record["kind"], data, checkpoint, chain)

    def _held(self, checkpoint: str, channel: str) -> Stored:
        known = self._read.get((checkpoint, channel))
        if known is None:
            entry = self._transaction.get(self._place.topic, self._place.checkpoint(checkpoint))
            if entry is None:
                raise BoardCorrupt(
                    f"Checkpoint {checkpoint} of {self._place.topic}, which others build on, is missing."
                )
            known = self._read[checkpoint, channel] = self.value(entry, channel)
        return known


def _new(holder: str, kind: str, data: bytes, old: Stored | None) -> tuple[Json, Stored]:
    if old is not None and old.kind == kind and old.chain < LONGEST_CHAIN:
        delta = difference(old.data, data)
        if delta is not None and 2 * delta.size < len(data):
            record = {
                "kind": kind,
                "data": packed(delta.before + delta.after),
                "base": old.holder,
                "copy": [delta.start, delta.length],
                "split": len(delta.before),
            }
            return record, new_stored(kind, data, holder, old.chain + 1)
    return {"kind": kind, "data": packed(data)}, new_stored(kind, data, holder, 0)
