"""Carrying an actor through its attempts: run its code, commit what it did, start again where the commit conflicted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentsys.actor import Actor
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.conflicts import Conflict, ConflictItem, CursorConflict, KeyConflict, PredicateConflict
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json, Key
from agentsys.blackboard.labels import Label
from agentsys.blackboard.resolution import ESCALATE_AFTER, HOLD_SECONDS, freed_on_failure, policy_of, reconciled
from agentsys.blackboard.transactions import Transaction
from agentsys.cancellation import stray_cancellation_as_error
from agentsys.context import Context
from agentsys.current import current_context
from agentsys.decisions import DecisionLog, DecisionRecord
from agentsys.handles import NoValue
from agentsys.journal import RecordEnded, Step, submit
from agentsys.labelled import sources_of, unwrap
from agentsys.leases import LeaseLost, is_loss
from agentsys.questions import about_write, merging
from agentsys.recording import FATAL
from agentsys.scope import RunScope
from agentsys.threads import without_exit
from agentsys.tools import to_json

MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What an actor's code came to: its result, the label of all that shaped it, the digest of its last writes.

    ``seq`` is the commit that recorded it, 0 where it was on record before; ``read`` is what the code had read.
    """

    value: Json
    label: Label
    writes: str
    seq: int
    read: Sequence[EntryVersionRef] = ()


Body = Callable[[Context], Awaitable[Any]]
Conclude = Callable[[Transaction, Conclusion], None]


class ActorFailed(Exception):
    """Carries an actor's error, the label of what was delivered to it before, open decisions, and what it had read."""

    def __init__(
        self, cause: Exception, label: Label, decisions: DecisionLog, read: Sequence[EntryVersionRef] = ()
    ) -> None:
        super().__init__(str(cause))
        self.read = read
        self.cause = cause
        self.label = label
        self.decisions = decisions


async def perform(scope: RunScope, actor: Actor, body: Body, conclude: Conclude | None) -> Conclusion:
    """Run ``body`` and commit its writes with what ``conclude`` adds, or nothing where its end is on record (``None``).

    A lost conflict starts a new attempt at the board's head, which is told what changed; after ``MAX_ATTEMPTS`` the
    conflict counts as the actor's failure. Raises :class:`ActorFailed` for errors of the body, and :data:`FATAL` ones.
    """
    actor = _at_attempt(scope, actor, scope.journal.latest_attempt(actor.path))
    while True:
        context = Context(scope, actor)
        try:
            with freed_on_failure(scope.board, f"agent:{actor.name}", actor.owner):
                return await _attempt(scope, context, body, conclude)
        except Conflict as conflict:
            if is_loss(conflict):
                raise LeaseLost(f"Run {scope.run} is not this process's any more.") from conflict
            if actor.attempt == MAX_ATTEMPTS:
                label = _known(context, conflict)
                raise ActorFailed(conflict, label, context.decisions, context.read_so_far) from conflict
            policy = policy_of(conflict.items, scope.conflicts)
            owner = await _exclusive_turn(scope, context) if policy == "escalate" else None
            await _record_attempt(scope, context, conflict, told=policy != "retry")
            known = (*context.read_so_far, *(entry.ref for entry in _versions(conflict.items)))
            actor = replace(_at_attempt(scope, actor, actor.attempt + 1), owner=owner, known=known)
        except FATAL:
            raise
        except Exception as error:
            # That a handle stands for nothing is known to whoever gets the error.
            label = context.label.join(error.label) if isinstance(error, NoValue) else context.label
            raise ActorFailed(error, label, context.decisions, context.read_so_far) from error
        finally:
            context.close()


async def _attempt(scope: RunScope, context: Context, body: Body, conclude: Conclude | None) -> Conclusion:
    token = current_context.set(context)
    try:
        with stray_cancellation_as_error():
            returned = await without_exit(body(context))
    except Exception as error:
        if context.fault in (None, error):
            raise
        # Its code made another error of one that is not its own.
        raise context.fault from error
    finally:
        current_context.reset(token)
    value, labels = unwrap(returned)
    transaction, writes = context.conclude()
    label = context.label.join(*labels)
    read = tuple(dict.fromkeys((*context.read_so_far, *sources_of(returned))))
    conclusion = Conclusion(scope.secrets.json(to_json(value)), label, writes, 0, read)
    if conclude is None:
        return conclusion
    if scope.replaying:
        raise RecordEnded(f"Run {scope.run} has no record of the end of {context.actor.path}.")
    conclude(transaction, conclusion)
    commit = await _commit(scope, context, transaction)
    return replace(conclusion, seq=commit.seq)


async def _commit(scope: RunScope, context: Context, transaction: Transaction) -> Commit:
    """Commit; values that a function of their type makes one with others' are written so, without a new attempt."""
    decided, joined = transaction, set[Key]()
    for _ in range(MAX_ATTEMPTS):
        context.lost = transaction
        try:
            return await submit(scope.board, transaction)
        except Conflict as conflict:
            try:
                again = reconciled(transaction, conflict, scope.conflicts)
            except Exception:
                # It may quote what others wrote.
                context.deliver(_known(context, conflict))
                raise
            if again is None:
                raise
            transaction = again
            joined |= {(item.topic, item.key) for item in conflict.items if isinstance(item, KeyConflict)}
            _record_decided(scope, context, decided, transaction, joined)
    return await submit(scope.board, transaction)


def _record_decided(
    scope: RunScope, context: Context, decided: Transaction, joined: Transaction, addresses: Iterable[Key]
) -> None:
    """Put on record with ``joined`` what was decided about its writes: others' labels are joined to theirs since."""
    gateway, actor = scope.gateway, context.actor
    for number, (topic, key) in enumerate(sorted(addresses)):
        write = decided.written(topic, key)
        assert write is not None, "only what was put is made one with others' values"
        decision, question = gateway.decide_write(topic, write.label), about_write(topic, write.label)
        made = DecisionRecord.made(actor.name, merging(topic, key), decision, gateway.policy.version, question)
        label = context.label.join(joined.reads_label)
        made.write(joined, scope.run, f"{actor.path}#{actor.attempt}:joined/{number}", label)


async def _exclusive_turn(scope: RunScope, context: Context) -> str | None:
    """Hold what the actor's lost transaction touched, from its second loss on; return who holds."""
    lost = context.lost
    if lost is None or context.actor.attempt < ESCALATE_AFTER:
        return None
    return (await asyncio.to_thread(scope.board.hold, lost, HOLD_SECONDS)).owner


async def _record_attempt(scope: RunScope, context: Context, lost: Conflict, *, told: bool) -> None:
    actor = context.actor
    changed = [item for item in lost.items if told and not isinstance(item, CursorConflict)]
    head = await asyncio.to_thread(lambda: scope.board.head)
    kept = dict(actor.kept) | ({context.kept: head} if context.kept else {})
    snapshot = actor.snapshot if kept else head
    value: Json = {"snapshot": snapshot, "changes": [_describe(item) for item in changed], "kept": kept}
    key = f"{actor.path}#{actor.attempt + 1}"
    step = Step(key, "attempt", "", 0, value, _label_of_attempt(actor, context, changed), 0)
    transaction = scope.journal.begin(f"agent:{actor.name}")
    context.decisions.write(transaction, f"{actor.path}#{actor.attempt}:conflict", context.label)
    read = [*context.read_so_far, *(entry.ref for entry in _versions(changed))]
    try:
        await scope.journal.record(step, transaction, read)
    except Conflict as conflict:
        raise LeaseLost(f"Run {scope.run} is not this process's any more.") from conflict


def _label_of_attempt(actor: Actor, context: Context, changed: Iterable[ConflictItem]) -> Label:
    """Return what a new attempt starts from: the last one's label, since what it saw led to its conflict.

    Its code, too, may remember what it saw.
    """
    return actor.label.join(context.label, *(entry.label for entry in _versions(changed)))


def _known(context: Context, lost: Conflict) -> Label:
    """Return the label of whoever is told of a conflict beside what the actor saw."""
    return context.label.join(*(entry.label for entry in _versions(lost.items)))


def _versions(changed: Iterable[ConflictItem]) -> list[Entry]:
    """Return what stood and what stands where a transaction lost."""
    items = [item for item in changed if not isinstance(item, CursorConflict)]
    return [entry for item in items for entry in (item.old, item.new) if entry is not None]


def _at_attempt(scope: RunScope, actor: Actor, attempt: int) -> Actor:
    if attempt == 1:
        return actor
    step = scope.journal.get(f"{actor.path}#{attempt}")
    assert step is not None, "an attempt after the first is recorded before it begins"
    start: Any = step.value
    return replace(
        actor,
        attempt=attempt,
        label=step.label,
        snapshot=start["snapshot"],
        changes=tuple(start["changes"]),
        kept=start["kept"],
    )


def _describe(item: KeyConflict | PredicateConflict) -> Json:
    entry = item.new or item.old
    return {
        "kind": item.kind,
        "topic": entry.topic if entry else None,
        "key": entry.key if entry else None,
        "old": item.old.value if item.old else None,
        "new": item.new.value if item.new else None,
    }
