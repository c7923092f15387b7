"""Beginning a run: its first record, under a name that nobody has, in one commit with the lease of who executes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

from agentsys import topics
from agentsys.agents import is_name
from agentsys.audit import keep_policy
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import ConfigurationError, RunError
from agentsys.journal import submit
from agentsys.leases import RunBusy, give_back, lease_in, take
from agentsys.policy.policy import Policy
from agentsys.runs import RunRecord


class RunExists(RunError):
    """A run was started under an identifier that is taken."""

    code = "AGS-0603"
    remedy = "Resume that run, or leave the identifier out."


def new_name() -> str:
    """Return a random identifier for a run."""
    return uuid4().hex[:12]


def free_name(board: Board, wanted: str | None) -> str:
    """Return the identifier of a new run. Raises :class:`RunExists`, and ``ConfigurationError`` for what is no name."""
    run = wanted or new_name()
    if not is_name(run):
        raise ConfigurationError(
            f"The run's identifier {run!r} is not made of letters, digits, '_', '-' and '.'.",
            remedy="Pass another run_id, or none.",
        )
    if board.get(topics.RUNS, run) is not None:
        raise RunExists(f"The board has a run {run!r} already.")
    return run


async def begin(
    board: Board,
    record: RunRecord,
    policy: Policy,
    add: Callable[[Transaction], None] | None = None,
    *,
    for_anybody: bool = False,
) -> Entry:
    """Commit a run's first record with what ``add`` writes, and return its lease: this process's, or nobody's.

    Raises :class:`RunExists`.
    """

    def begun() -> Transaction:
        transaction = board.begin(policy.owner, run=record.run)
        # Once more: of what is begun after this look, one conflicts.
        free_name(board, record.run)
        record.write(transaction)
        keep_policy(board, policy, transaction)
        if add is not None:
            add(transaction)
        take(board, record.run, transaction)
        if for_anybody:
            give_back(record.run, transaction)
        return transaction

    try:
        return lease_in(await submit(board, await asyncio.to_thread(begun)))
    except (Conflict, RunBusy) as lost:
        raise RunExists(f"Another process began a run {record.run!r} at this moment.") from lost
