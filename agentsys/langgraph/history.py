"""What a ``DeltaChannel`` is rebuilt from: the writes of a checkpoint's ancestors, back to a stored value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite
from langgraph.checkpoint.serde.base import SerializerProtocol

from agentsys.blackboard.entries import Entry
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.addresses import Place
from agentsys.langgraph.channels import ValueReader
from agentsys.langgraph.pending import pending_writes


def ancestors(transaction: Transaction, place: Place, checkpoint: str | None) -> Iterator[tuple[str, Entry]]:
    """Yield the ancestors of ``checkpoint``, the nearest first, each with its identifier."""
    entry = None if checkpoint is None else transaction.get(place.topic, place.checkpoint(checkpoint))
    while entry is not None:
        body: Any = entry.value
        parent = body["parent"]
        entry = None if parent is None else transaction.get(place.topic, place.checkpoint(parent))
        if entry is not None:
            yield parent, entry


def channel_history(
    transaction: Transaction, place: Place, checkpoint: str | None, channels: Sequence[str], serde: SerializerProtocol
) -> Mapping[str, DeltaChannelHistory]:
    """Return, for each channel, its seed (the value of the nearest ancestor that stores one) and the writes since."""
    writes: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
    seeds: dict[str, Any] = {}
    reader = ValueReader(transaction, place)
    for identifier, entry in ancestors(transaction, place, checkpoint):
        missing = writes.keys() - seeds.keys()
        if not missing:
            break
        # Of one ancestor the last comes first here: all are turned round at the end.
        for write in reversed(pending_writes(transaction.query(place.all_writes(identifier)), serde)):
            if write[1] in missing:
                writes[write[1]].append(write)
        body: Any = entry.value
        for channel in missing & body["values"].keys():
            stored = reader.value(entry, channel)
            seeds[channel] = serde.loads_typed((stored.kind, stored.data))
    found: dict[str, DeltaChannelHistory] = {channel: {"writes": writes[channel][::-1]} for channel in channels}
    for channel, seed in seeds.items():
        found[channel]["seed"] = seed
    return found
