"""What becomes of a conflict: the policies by which a transaction that lost is tried again.

===========  ==========================================================================================================
policy       what happens
===========  ==========================================================================================================
``repair``   the author is told what changed and judges again (what a model concluded may no longer hold); the default
``retry``    the work is done again without being told: for work that only depends on what it reads
a function   ``(base, mine, theirs) -> value`` makes one value of both, and nothing is done again
``escalate`` after ``ESCALATE_AFTER`` losses the work is done in a short exclusive turn
===========  ==========================================================================================================

A policy belongs to an entry type. Where a conflict concerns several types, the most careful policy decides.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Literal, TypeAlias, TypeVar

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.conflicts import Conflict, ConflictItem, CursorConflict, KeyConflict
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.transactions import Resolved, Transaction
from agentsys.errors import BoardError

Reconcile: TypeAlias = Callable[[Json, Json, Json], Json]
ConflictPolicy: TypeAlias = Literal["repair", "retry", "escalate"] | Reconcile
Policies: TypeAlias = Mapping[str, ConflictPolicy]

ATTEMPTS: Final = 10
ESCALATE_AFTER: Final = 2
HOLD_SECONDS: Final = 5.0

_T = TypeVar("_T")
_CAREFUL: Final[tuple[Literal["repair", "retry", "escalate"], ...]] = ("repair", "escalate", "retry")


def policy_of(items: Iterable[ConflictItem], policies: Policies) -> Literal["repair", "retry", "escalate"]:
    """Return the most careful policy of the conflict's entries; values that cannot be made one are to be repaired."""
    found = {_policy_of(item, policies) for item in items}
    return next((policy for policy in _CAREFUL if policy in found), "repair")


def reconciled(lost: Transaction, conflict: Conflict, policies: Policies) -> Transaction | None:
    """Return ``lost`` anew, with each conflicting value made one with what others wrote.

    ``None`` where the conflict is not only about entries that ``lost`` put and whose type has a function.
    """
    resolved = {}
    for item in conflict.items:
        policy = _policy_of(item, policies)
        if not callable(policy) or not isinstance(item, KeyConflict):
            return None
        mine = lost.written(item.topic, item.key)
        if mine is None:
            return None
        value = policy(_value(item.old), mine.value, _value(item.new))
        label = mine.label if item.new is None else mine.label.join(item.new.label)
        resolved[item.topic, item.key] = Resolved(item.new, value, label)
    return lost.rebased(resolved)


def transact(
    board: Board,
    principal: str,
    work: Callable[[Transaction, Sequence[ConflictItem]], _T],
    *,
    policies: Policies | None = None,
    isolation: Isolation = "serializable",
    urgency: float = math.inf,
    attempts: int = ATTEMPTS,
) -> _T:
    """Do ``work`` in a transaction and commit it, by the policies of the entries it conflicts on.

    ``work`` gets the transaction and, after a lost conflict under ``repair``, what changed. Raises the last
    :class:`Conflict` after ``attempts``.
    """
    changes: Sequence[ConflictItem] = ()
    held: Transaction | None = None
    for attempt in range(1, attempts + 1):
        transaction = held or board.begin(principal, isolation=isolation, urgency=urgency)
        with freed_on_failure(board, principal, None if held is None else held.owner):
            result = work(transaction, changes)
        try:
            commit_reconciling(board, transaction, policies or {})
        except Conflict as conflict:
            if attempt == attempts:
                raise
            policy = policy_of(conflict.items, policies or {})
            changes = conflict.items if policy == "repair" else ()
            escalated = policy == "escalate" and attempt >= ESCALATE_AFTER
            held = board.hold(transaction, HOLD_SECONDS) if escalated else None
            continue
        return result
    raise AssertionError("the last attempt returns or raises")


def commit_reconciling(board: Board, transaction: Transaction, policies: Policies) -> None:
    """Commit; where every conflicting entry has a function, with what it makes of both. Raises :class:`Conflict`."""
    for _ in range(ATTEMPTS):
        try:
            board.commit(transaction)
            return
        except Conflict as conflict:
            again = reconciled(transaction, conflict, policies)
            if again is None:
                raise
            transaction = again
    board.commit(transaction)


@contextmanager
def freed_on_failure(board: Board, principal: str, owner: str | None) -> Iterator[None]:
    """End the exclusive turn of ``owner``, if there is one, where this block fails before its commit: others wait."""
    try:
        yield
    except BaseException:
        if owner is not None:
            with suppress(BoardError):
                nothing = board.begin(principal)
                nothing.owner = owner
                board.submit(nothing)
        raise


def _value(entry: Entry | None) -> Json:
    return None if entry is None else entry.value


def _policy_of(item: ConflictItem, policies: Policies) -> ConflictPolicy:
    if isinstance(item, CursorConflict):
        # Another consumer has handled these commits: to do it again is the mistake that cursors prevent.
        return "repair"
    entry = item.new or item.old
    return "repair" if entry is None else policies.get(entry.type, "repair")
