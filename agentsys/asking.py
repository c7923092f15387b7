"""Waiting for a person: an actor that asked goes on once the approval on the board is decided, by whichever process."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from agentsys.actor import Actor
from agentsys.approvals import Approval
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.errors import RunError
from agentsys.events import ApprovalDecided, ApprovalRequested
from agentsys.gateway import AskCall
from agentsys.journal import RecordEnded, Step
from agentsys.scope import RunScope

POLL_SECONDS: Final = 0.1
"""How soon a decision is seen."""


class AnswerRefused(RunError):
    """A person was asked a question and refused to answer."""

    code = "AGS-0607"
    remedy = "Catch AnswerRefused in the workflow to go on without the answer."


def approval_of_call(
    scope: RunScope, actor: Actor, step: Step, identity: str, asked: AskCall, label: Label
) -> Approval:
    """Return what to ask about a tool call; ``label`` is of its arguments."""
    return Approval(
        id=identity,
        run=scope.run,
        agent=actor.name,
        kind="call",
        subject=asked.tool.name,
        arguments=asked.arguments,
        rule=asked.rule,
        reason=asked.reason,
        asked_at=time.time(),
        step=step.key,
        effect_class=asked.tool.effect_class,
        label=label,
    )


def approval_of_question(
    scope: RunScope, actor: Actor, step: Step, identity: str, question: Json, label: Label
) -> Approval:
    """Return a question to a person; one that is no text goes along as the arguments."""
    return Approval(
        id=identity,
        run=scope.run,
        agent=actor.name,
        kind="question",
        subject=question if isinstance(question, str) else "question",
        arguments=question,
        rule="question",
        reason="",
        asked_at=time.time(),
        step=step.key,
        label=label,
    )


async def decided(scope: RunScope, actor: Actor, approval: str, *, fresh: bool) -> Approval:
    """Return an approval with a person's word, however long that takes; the actor's place on the agenda is free.

    ``fresh`` says that it was asked for just now: a word that came at once is told to the listener too.
    Raises :class:`RecordEnded` in a replay of a run that still waits.
    """
    found = Approval.load(scope.board, approval)
    if found.status in ("approved", "refused") and not fresh:
        return found
    if scope.replaying:
        raise RecordEnded(f"Run {found.run} has no record of a decision on approval {approval}.")
    scope.emit(
        ApprovalRequested(found.run, found.id, found.agent, found.kind, found.subject, found.arguments, found.reason)
    )
    async with AsyncExitStack() as stack:
        if actor.rated is not None:
            await stack.enter_async_context(scope.agenda.pause(actor.rated))
        found = await _wait(scope.board, approval)
    by = found.decided_by or ""
    scope.emit(ApprovalDecided(found.run, found.id, found.agent, found.subject, found.status, by, found.note))
    return found


async def _wait(board: Board, approval: str) -> Approval:
    seen = -1
    while True:
        if board.head != seen:
            seen = board.head
            found = await asyncio.to_thread(Approval.load, board, approval)
            if found.status in ("approved", "refused"):
                return found
        await asyncio.sleep(POLL_SECONDS)
