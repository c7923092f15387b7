"""What tasks wrote on a checkpoint before their superstep ended: one entry a task.

The entry's ``writes`` are ``[NUMBER, CHANNEL, KIND, DATA]`` in the order of their numbers. LangGraph numbers errors,
interrupts and the like below zero; those replace what was there, others do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from langgraph.checkpoint.base import WRITES_IDX_MAP, PendingWrite, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

from agentsys.blackboard.entries import Entry, Json
from agentsys.langgraph.encoding import decoded, encoded

Numbered: TypeAlias = list[Any]
"""One write as it is stored: number, channel, kind, data."""


def numbered(writes: Sequence[tuple[str, Any]], serde: SerializerProtocol) -> list[Numbered]:
    """Return ``writes`` under their numbers, encoded."""
    found: list[Numbered] = []
    for position, (channel, value) in enumerate(writes):
        kind, data = encoded(serde, value)
        found.append([WRITES_IDX_MAP.get(channel, position), channel, kind, data])
    return found


def merged(before: Entry | None, task: str, path: str, writes: Sequence[Numbered]) -> Json:
    """Return a task's entry after ``writes`` were added to what it was."""
    body: Any = {"task": task, "path": path, "writes": []} if before is None else before.value
    by_number = {write[0]: write for write in body["writes"]}
    for write in writes:
        if write[0] < 0 or write[0] not in by_number:
            by_number[write[0]] = write
    return {**body, "writes": [by_number[number] for number in sorted(by_number)]}


def pending_writes(entries: Iterable[Entry], serde: SerializerProtocol) -> list[PendingWrite]:
    """Return all tasks' writes as ``(task, channel, value)``, in the order in which LangGraph applies them."""
    found: list[tuple[tuple[str, str, int], PendingWrite]] = []
    for entry in entries:
        body: Any = entry.value
        for number, channel, kind, data in body["writes"]:
            order = writes_sort_key(body["path"], body["task"], number)
            found.append((order, (body["task"], channel, decoded(serde, (kind, data)))))
    return [write for _, write in sorted(found, key=lambda item: item[0])]
