"""Leases: which process executes which run, and that nobody else writes its record.

A lease names the opening of the board that executes a run. It needs no renewal and no clock: it holds as long as the
board knows the process of that opening to be alive (by a lock of the system, or by the database's clock). Every commit
of a run relies on the lease under which it was begun, so a process that was thought dead, and wakes, commits no more,
save for what became of a call that it had begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.conflicts import Conflict, KeyConflict
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import RunError
from agentsys.journal import submit

NOBODY: Final = 0


class RunBusy(RunError):
    """A run is being executed, in this process or another."""

    code = "AGS-0604"
    remedy = "Wait for it to end. Where its process has just died, another may take it over a few seconds later."


class LeaseLost(RunError):
    """Another process took a run over, or it was cancelled there; this one executes it no more."""

    code = "AGS-0609"
    remedy = "Nothing is lost: see the run's record for how it goes on."


def take(board: Board, run: str, transaction: Transaction) -> None:
    """Put on record with ``transaction`` that this process executes a run. Raises :class:`RunBusy`."""
    held = transaction.get(topics.LEASES, run)
    if not is_free(board, held):
        raise RunBusy(f"Run {run} is being executed by a live process, opening {_holder(held)} of the board.")
    _put(run, board.epoch, transaction)


def give_back(run: str, transaction: Transaction, label: Label = BOTTOM) -> None:
    """Put on record that nobody executes a run; ``label`` is of what led to that."""
    _put(run, NOBODY, transaction, label)


async def claim(board: Board, run: str, add: Callable[[Transaction], None]) -> Entry:
    """Take a run that others may want, too, with what ``add`` writes. Raises :class:`RunBusy`."""

    def taken() -> Transaction:
        transaction = board.begin("runtime", run=run)
        take(board, run, transaction)
        add(transaction)
        return transaction

    try:
        return lease_in(await submit(board, await asyncio.to_thread(taken)))
    except Conflict as conflict:
        raise RunBusy(f"Run {run} was taken by another process at this moment.") from conflict


def lease_in(commit: Commit) -> Entry:
    """Return the lease that a commit put on record."""
    return next(entry for entry in commit.writes if entry.topic == topics.LEASES)


def is_free(board: Board, lease: Entry | None) -> bool:
    """Whether no other live process executes the run of a lease."""
    holder = _holder(lease)
    return holder in (NOBODY, board.epoch) or not board.alive(holder)


def is_untaken(lease: Entry | None) -> bool:
    """Whether the run of a lease was put on record for any worker, and no process has taken it yet."""
    return lease is not None and lease.version == 1 and _holder(lease) == NOBODY


def is_own(board: Board, lease: Entry) -> bool:
    """Whether this process executes the run of a lease."""
    return _holder(lease) == board.epoch


def is_loss(conflict: Conflict) -> bool:
    """Whether a transaction lost because the run's lease went to somebody else."""
    return any(isinstance(item, KeyConflict) and item.topic == topics.LEASES for item in conflict.items)


def _put(run: str, holder: int, transaction: Transaction, label: Label = BOTTOM) -> None:
    body: Json = {"held_by": holder}
    # Who executes a run says nothing of what it is about; a run's identifier is known to all.
    transaction.put(topics.LEASES, run, body, type="lease", label=label, derived_from=())


def _holder(lease: Entry | None) -> int:
    body: Any = {} if lease is None else lease.value
    return int(body.get("held_by", NOBODY))
