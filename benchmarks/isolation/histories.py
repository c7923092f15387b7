"""Histories: what each transaction of a list-append workload did and saw, and their text in Jepsen's formats.

A history is what the clients know, not what the board says of itself. ``ok`` was acknowledged, ``fail`` was refused,
and of ``info`` nobody knows whether it was committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Outcome: TypeAlias = Literal["ok", "fail", "info"]


@dataclass(frozen=True, slots=True)
class Operation:
    """``append``: ``value`` is the one element appended. ``r``: ``value`` is the list read, ``None`` if unknown."""

    kind: Literal["append", "r"]
    key: str
    value: int | tuple[int, ...] | None

    def to_json(self) -> list[Any]:
        return [self.kind, self.key, list(self.value) if isinstance(self.value, tuple) else self.value]

    @staticmethod
    def from_json(data: Sequence[Any]) -> Operation:
        kind, key, value = data
        return Operation(kind, key, tuple(value) if isinstance(value, list) else value)


@dataclass(frozen=True, slots=True)
class ListTransaction:
    """One transaction of one client ``process``; ``began`` and ``ended`` in nanoseconds of the machine's one clock."""

    process: int
    outcome: Outcome
    operations: tuple[Operation, ...]
    began: int
    ended: int


def jepsen_events(history: Sequence[ListTransaction]) -> Iterator[dict[str, Any]]:
    """Yield the invocations and completions of ``history`` in order of time, as Elle's ``list-append`` reads them."""
    events = []
    for item in history:
        asked = [[op.kind, op.key, op.value if op.kind == "append" else None] for op in item.operations]
        events.append((item.began, 0, "invoke", item.process, asked))
        done = [op.to_json() for op in item.operations] if item.outcome == "ok" else asked
        events.append((item.ended, 1, item.outcome, item.process, done))
    for index, (time, _, kind, process, value) in enumerate(sorted(events, key=lambda event: event[:2])):
        yield {"index": index, "type": kind, "process": process, "time": time, "f": "txn", "value": value}


def to_json_lines(events: Iterable[dict[str, Any]]) -> str:
    """Return one JSON object a line."""
    return "".join(json.dumps(event) + "\n" for event in events)


def to_edn_lines(events: Iterable[dict[str, Any]]) -> str:
    """Return one EDN map a line, with keywords where Jepsen has them."""
    lines = []
    for event in events:
        operations = " ".join(f"[:{kind} {_edn(key)} {_edn(value)}]" for kind, key, value in event["value"])
        lines.append(
            f"{{:index {event['index']}, :type :{event['type']}, :process {event['process']}, "
            f":time {event['time']}, :f :txn, :value [{operations}]}}\n"
        )
    return "".join(lines)


def _edn(value: object) -> str:
    if value is None:
        return "nil"
    if isinstance(value, list):
        return f"[{' '.join(map(_edn, value))}]"
    return json.dumps(value)
