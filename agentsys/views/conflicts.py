"""Transactions that lost a conflict: what others changed under them, as recorded with the actor's next attempt."""

from dataclasses import dataclass, field
from typing import Any

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.predicates import Predicate
from agentsys.views.labels import ViewLabel
from agentsys.views.withholding import content


@dataclass(frozen=True, slots=True)
class ChangeView:
    """What another transaction changed under the lost one: an entry that it read, or one within a set that it read."""

    kind: str
    topic: str
    key: str
    old: Json
    new: Json


@dataclass(frozen=True, slots=True)
class ConflictView:
    """A lost transaction of one actor. ``seq`` and ``at`` (unix seconds) are of the commit that recorded it.

    ``attempt`` is the number of the attempt that was lost; nothing of its writes is on the board.
    """

    seq: int
    at: float
    run: str | None
    writer: str
    actor: str
    attempt: int
    changes: tuple[ChangeView, ...] = field(metadata=content(hidden=()))
    label: ViewLabel
    withheld: bool = False


def newest_conflicts(
    board: Board, limit: int, run: str | None = None, at: int | None = None
) -> tuple[ConflictView, ...]:
    """Return the last ``limit`` conflicts of all runs or of one, newest first, as known after commit ``at``."""
    found = board.query(Predicate(topic_prefix="runs/", type="step", run=run, equals={"kind": "attempt"}), at=at)
    return tuple(_conflict(entry) for entry in sorted(found, key=lambda entry: -entry.seq)[:limit])


def _conflict(entry: Entry) -> ConflictView:
    recorded: Any = entry.value
    actor, _, attempt = entry.key.rpartition("#")
    return ConflictView(
        seq=entry.seq,
        at=entry.committed_at,
        run=entry.run,
        writer=entry.writer,
        actor=actor,
        attempt=int(attempt) - 1,
        changes=tuple(
            ChangeView(change["kind"], change["topic"] or "", change["key"] or "", change["old"], change["new"])
            for change in recorded["value"]["changes"]
        ),
        label=entry.label,
    )
