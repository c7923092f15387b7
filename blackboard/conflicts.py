"""Conflicts: what a transaction relied on and lost, as a typed difference its author can judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentsys.blackboard.entries import Entry
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import BoardError


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """An entry changed between the snapshot and the commit. ``expected`` is the version relied on (0: none)."""

    topic: str
    key: str
    expected: int
    old: Entry | None
    new: Entry | None
    kind: Literal["key"] = "key"


@dataclass(frozen=True, slots=True)
class PredicateConflict:
    """An entry entered, left or changed within a set that was read: ``old`` or ``new`` matches ``predicate``."""

    predicate: Predicate
    old: Entry | None
    new: Entry | None
    kind: Literal["predicate"] = "predicate"


@dataclass(frozen=True, slots=True)
class CursorConflict:
    """Another consumer moved the subscription's cursor from ``expected`` to ``actual``."""

    subscription: str
    expected: int
    actual: int
    kind: Literal["cursor"] = "cursor"


ConflictItem: TypeAlias = KeyConflict | PredicateConflict | CursorConflict


class Conflict(BoardError):
    """A transaction lost against a commit made after its snapshot; nothing of it was written."""

    code = "AGS-0210"
    remedy = "Begin a new transaction, judge `items` (what changed), and commit again."

    def __init__(self, tx_id: str, items: Sequence[ConflictItem]) -> None:
        shown = "; ".join(_describe(item) for item in items[:3])
        more = f" and {len(items) - 3} more" if len(items) > 3 else ""
        super().__init__(f"Transaction {tx_id} conflicts with later commits: {shown}{more}.")
        self.tx_id = tx_id
        self.items = tuple(items)


def _describe(item: ConflictItem) -> str:
    if isinstance(item, KeyConflict):
        actual = item.new.version if item.new is not None else 0
        return f"{item.topic}/{item.key} was version {item.expected} and is {actual}"
    if isinstance(item, CursorConflict):
        return f"cursor {item.subscription} was {item.expected} and is {item.actual}"
    changed = item.new or item.old
    where = f"{changed.topic}/{changed.key}" if changed is not None else "nothing"
    return f"{where} changed within {item.predicate.to_json()}"
