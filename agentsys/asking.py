"""Asking a person: an actor that asked goes on once the approval on the board is decided, by whichever process."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from agentsys import topics
from agentsys.actor import Actor
from agentsys.approvals import Approval, ApprovalKind, standing
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.transactions import Transaction
from agentsys.events import ApprovalDecided, ApprovalRequested
from agentsys.gateway import AskCall
from agentsys.journal import RecordEnded, Step, submit
from agentsys.leases import LeaseLost, is_loss
from agentsys.scope import RunScope

POLL_SECONDS: Final = 0.1
"""How soon a decision is seen."""


def approval_of_call(
    scope: RunScope, actor: Actor, step: Step, identity: str, asked: AskCall, control: Label, labels: dict[str, Label]
) -> Approval:
    """Return what to ask about a tool call: ``control`` is the caller's label, ``labels`` are of the arguments."""
    approval = _asked(scope, actor, step, identity, "call", asked.tool.name, asked.arguments, control, labels)
    return replace(
        approval,
        rule=asked.rule,
        reason=asked.reason,
        effect_class=asked.tool.effect_class,
        schema=asked.tool.parameters.model_json_schema(),
    )


def approval_of_question(
    scope: RunScope, actor: Actor, step: Step, identity: str, question: Json, label: Label
) -> Approval:
    """Return a question to a person; one that is no text goes along as the arguments."""
    subject = question if isinstance(question, str) else "question"
    return _asked(scope, actor, step, identity, "question", subject, question, label, {})


def approval_of_value(
    scope: RunScope, actor: Actor, step: Step, identity: str, name: str, value: Json, control: Label, label: Label
) -> Approval:
    """Return the question whether a person vouches for a value, once and wherever it is then used.

    ``control`` is the asking actor's label, ``label`` the value's.
    """
    approval = _asked(scope, actor, step, identity, "value", name, value, control, {"value": label})
    return replace(approval, reason="it is to be used where only trusted or endorsed values may be")


def _asked(
    scope: RunScope,
    actor: Actor,
    step: Step,
    identity: str,
    kind: ApprovalKind,
    subject: str,
    arguments: Json,
    control: Label,
    labels: dict[str, Label],
) -> Approval:
    now, policy = time.time(), scope.gateway.policy
    return Approval(
        id=identity,
        run=scope.run,
        agent=actor.name,
        kind=kind,
        subject=subject,
        arguments=arguments,
        rule=kind,
        reason="",
        asked_at=now,
        step=step.key,
        control=control,
        labels=labels,
        policy=policy.version,
        approvers=tuple(sorted(policy.approvers)),
        expires_at=None if scope.approval_seconds is None else now + scope.approval_seconds,
        after=scope.board.heard,
        label=control.join(*labels.values()),
    )


async def decided(scope: RunScope, actor: Actor, approval: str, *, fresh: bool) -> Approval:
    """Return an approval with a person's word, however long that takes; the actor's place on the agenda is free.

    ``fresh`` says that it was asked for just now: a word that came at once is told to the listener too.
    Raises :class:`RecordEnded` in a replay of a run that still waits, or was ended there, and
    :class:`~agentsys.leases.LeaseLost` where the run has ended.
    """
    found = await asyncio.to_thread(Approval.load, scope.board, approval)
    if scope.replaying and (found.decided_at is None or found.status == "terminated"):
        raise RecordEnded(f"Run {found.run} has no record of going on after approval {approval}.")
    if found.decided_at is None or fresh:
        scope.emit(
            ApprovalRequested(
                found.run, found.id, found.agent, found.kind, found.subject, found.arguments, found.reason,
                label=found.label,
            )
        )  # fmt: skip
        async with AsyncExitStack() as stack:
            if actor.rated is not None:
                await stack.enter_async_context(scope.agenda.pause(actor.rated))
            found = await _wait(scope, approval)
        by = found.decided_by or ""
        scope.emit(
            ApprovalDecided(
                found.run, found.id, found.agent, found.subject, found.status, by, found.note, label=found.label
            )
        )
    if found.status == "terminated":
        raise LeaseLost(f"{found.decided_by} ended run {found.run} at approval {approval}.")
    return found


async def _wait(scope: RunScope, approval: str) -> Approval:
    seen, found = -1, await asyncio.to_thread(Approval.load, scope.board, approval)
    while found.decided_at is None:
        if found.status == "void":
            raise LeaseLost(f"Run {found.run} has ended elsewhere.")
        if found.expires_at is not None and time.time() > found.expires_at:
            await _expire(scope, approval)
        if scope.board.heard == seen:
            await asyncio.sleep(POLL_SECONDS)
            continue
        seen = scope.board.heard
        found = await asyncio.to_thread(Approval.load, scope.board, approval)
    return found


async def _expire(scope: RunScope, approval: str) -> None:
    """Put on record that nobody decided in time, unless somebody just did."""

    def expired() -> Transaction | None:
        transaction = scope.journal.begin("runtime", at=scope.board.head)
        entry = transaction.get(topics.APPROVALS, approval)
        assert entry is not None, "approvals are never deleted"
        found = standing(Approval.of(entry), transaction.get)
        if found.status != "expired" or found.decided_at is not None:
            return None
        replace(found, decided_at=time.time()).write(transaction)
        return transaction

    transaction = await asyncio.to_thread(expired)
    try:
        if transaction is not None:
            await submit(scope.board, transaction)
    except Conflict as conflict:
        if is_loss(conflict):
            raise LeaseLost(f"Run {scope.run} is not this process's any more.") from conflict
