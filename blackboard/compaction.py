"""Compaction: the past up to a horizon is dropped, and what proves the rest of the board is put on record before.

The record is an entry of its own commit, beyond the horizon, so the log's hashes cover it: the hash at which the gone
part of the log ended, and a digest of all that was current there. Then the horizon moves, from which on readers of an
older state are refused; then rows go, a few at a time between the others' commits. A compaction that dies in between
leaves a board that is right, and the next one ends what it began.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Select, and_, func, select

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.rows import AnyRow
from agentsys.blackboard.schema import COMMITS, CURSORS, EFFECT_EVENTS, EFFECTS, ENTRIES, SNAPSHOT_LEASES
from agentsys.blackboard.state_digest import state_digest
from agentsys.blackboard.storage import BoardState, Maintenance
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.upkeep import AdvanceHorizon, DropExpiredLeases, DropRange
from agentsys.blackboard.verification import COMPACTIONS
from agentsys.errors import BoardError

SLICE_SECONDS: Final = 0.005
"""How long the dropping of one slice may hold up commits, about."""
PAUSE: Final = 4.0
"""How long, in times of the last slice, the next one waits."""
FIRST_SLICE: Final = 64
LEAST_ROWS: Final = 256
"""So many rows go in a slice however long that takes: fewer cost about as much, and more may come meanwhile than go."""
LARGEST_SLICE: Final = 4_096
_UNSETTLED: Final = (EffectState.STARTED.value, EffectState.IN_DOUBT.value)


class CompactionRefused(BoardError):
    """Somebody began to need the past while it was about to be dropped. Nothing was dropped."""

    code = "AGS-0262"
    remedy = "Compact again: what is needed now is then kept."


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of the past stays readable: the last ``commits``, and all that was current in the last ``seconds``."""

    seconds: float = 0.0
    commits: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """Something that needs the board's states from commit ``seq`` on."""

    what: str
    seq: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a compaction does: it moves the horizon from ``begin`` to ``horizon``.

    ``pins`` keep it from moving farther. The numbers are of rows that can be dropped then, by kind.
    """

    head: int
    begin: int
    horizon: int
    pins: tuple[Pin, ...]
    dropped: dict[str, int] = field(default_factory=dict)


class Compactable(Protocol):
    """What compaction needs of a board."""

    def state(self) -> BoardState: ...

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]: ...

    def maintain(self, step: Maintenance) -> Any: ...

    def begin(self, principal: str) -> Transaction: ...

    def commit(self, tx: Transaction) -> Commit: ...

    def get(self, topic: str, key: str) -> Entry | None: ...


def plan(board: Compactable, keep: Keep, pins: Sequence[Pin] = ()) -> Plan:
    """Return what :func:`compact` would do now. ``pins`` are needs of which the board itself does not know.

    A lease whose process died counts until a compaction has found it expired.
    """
    state = board.state()
    wanted = state.head - keep.commits
    if keep.seconds:
        # Where no time is asked for, clocks have no say.
        wanted = min(wanted, _current_before(board, time.time() - keep.seconds, state.head))
    holding = sorted((pin for pin in (*pins, *_pins(board)) if pin.seq < wanted), key=lambda pin: pin.seq)
    horizon = max(state.horizon, min([wanted, *(pin.seq for pin in holding)]))
    return Plan(state.head, state.horizon, horizon, tuple(holding), _counts(board, horizon))


def compact(
    board: Compactable, keep: Keep, pins: Sequence[Pin] = (), progress: Callable[[int], None] = lambda rows: None
) -> Plan:
    """Drop what nobody needs any more; return what was done. Raises :class:`CompactionRefused`.

    ``progress`` is given the number of rows dropped so far. Commits go on meanwhile.
    """
    board.maintain(DropExpiredLeases())
    made = plan(board, keep, pins)
    if made.horizon > made.begin:
        _record(board, made.horizon)
        if not board.maintain(AdvanceHorizon(made.horizon)):
            raise CompactionRefused(f"The board's past before commit {made.horizon} came to be needed.")
    return replace(made, dropped=_drop(board, board.state().horizon, progress))


def _current_before(board: Compactable, at: float, head: int) -> int:
    """Return the commit whose state was current at the Unix time ``at``, or the one before the first later commit."""
    later = select(COMMITS.c.seq).where(COMMITS.c.committed_at > at).order_by(COMMITS.c.seq).limit(1)
    rows = board.select(later)
    return rows[0].seq - 1 if rows else head


def _pins(board: Compactable) -> list[Pin]:
    cursors = board.select(select(CURSORS.c.name, CURSORS.c.position))
    leases = board.select(select(SNAPSHOT_LEASES))
    unsettled = (
        select(EFFECTS.c.run)
        .join(EFFECT_EVENTS, and_(EFFECT_EVENTS.c.effect_id == EFFECTS.c.id, EFFECT_EVENTS.c.valid_to.is_(None)))
        .where(EFFECT_EVENTS.c.state.in_(_UNSETTLED))
    )
    began = select(COMMITS.c.run, func.min(COMMITS.c.seq).label("seq")).where(COMMITS.c.run.in_(unsettled))
    runs = board.select(began.group_by(COMMITS.c.run))
    return [
        *(Pin(f"subscription {row.name}", row.position) for row in cursors),
        *(Pin(f"lease {row.id}", row.snapshot) for row in leases),
        *(Pin(f"unsettled effects of run {row.run}", row.seq - 1) for row in runs),
    ]


def _record(board: Compactable, horizon: int) -> None:
    ended = board.select(select(COMMITS.c.hash).where(COMMITS.c.seq == horizon))
    if not ended and board.state().horizon >= horizon:
        # Another compaction has come as far meanwhile, and put that on record.
        return
    value: Json = {"hash": ended[0].hash, "state": state_digest(board.select, horizon)}
    known = board.get(COMPACTIONS, str(horizon))
    if known is None or known.value != value or known.seq <= horizon:
        transaction = board.begin("board")
        transaction.put(COMPACTIONS, str(horizon), value, type="compaction", label=Label.trusted())
        board.commit(transaction)


def _drop(board: Compactable, horizon: int, progress: Callable[[int], None]) -> dict[str, int]:
    dropped = dict.fromkeys(_droppable(horizon), 0)
    after, size = 0, FIRST_SLICE
    while commits := _next_commits(board, after, horizon, size):
        counts, seconds = board.maintain(DropRange(after, commits[-1], horizon))
        for what, count in counts.items():
            dropped[what] += count
        progress(sum(dropped.values()))
        # Most of the time belongs to those who commit.
        time.sleep(PAUSE * seconds)
        after, size = commits[-1], _next_size(size, seconds, sum(counts.values()) / len(commits))
    return dropped


def _next_size(size: int, seconds: float, rows_a_commit: float) -> int:
    """Return of how many commits the next slice is, after one of ``size`` that took ``seconds``."""
    share = SLICE_SECONDS / max(seconds, 1e-6)
    least = int(LEAST_ROWS / max(rows_a_commit, 1.0))
    return max(1, least, min(LARGEST_SLICE, int(size * min(2.0, max(0.5, share)))))


def _next_commits(board: Compactable, after: int, horizon: int, count: int) -> list[int]:
    """Return the next commits after ``after`` of which something can be dropped."""
    found: set[int] = set()
    for seq, gone in _droppable(horizon).values():
        found.update(row[0] for row in board.select(select(seq).where(seq > after, gone).order_by(seq).limit(count)))
    return sorted(found)[:count]


def _counts(board: Compactable, horizon: int) -> dict[str, int]:
    return {
        what: board.select(select(func.count(seq)).where(gone))[0][0]
        for what, (seq, gone) in _droppable(horizon).items()
    }


def _droppable(horizon: int) -> dict[str, tuple[ColumnElement[int], ColumnElement[bool]]]:
    """Return, by kind of row, the commit that wrote it and the condition under which nobody can read it any more."""
    return {
        "commits": (COMMITS.c.seq, COMMITS.c.seq <= horizon),
        "versions": (ENTRIES.c.valid_from, ENTRIES.c.valid_to <= horizon),
        "effect steps": (EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.valid_to <= horizon),
    }
