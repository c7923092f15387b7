"""Deciding: a person's word on an approval, one commit, from wherever the board can be reached.

The word alone does nothing: the run that waits checks it and acts on it. Only ending the run takes effect at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from jsonschema.exceptions import best_match

from agentsys import topics
from agentsys.approvals import (
    AlreadyDecided,
    Approval,
    ApprovalExpired,
    ApprovalInvalid,
    Escalation,
    NotAnApprover,
    standing,
)
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import LabelError
from agentsys.journal import submit
from agentsys.leases import give_back
from agentsys.rounds import Failure
from agentsys.runs import RunRecord
from agentsys.schemas import validator_of

Verdict = Literal["approve", "modify", "reject", "terminate", "escalate"]

VERDICTS: Final[dict[Verdict, str]] = {
    "approve": "once, as it is shown; a question is answered",
    "modify": "once, with other arguments or another value, which count as the person's own",
    "reject": "the run goes on with a denial",
    "terminate": "the run ends",
    "escalate": "another principal, who may read it, decides",
}


class UnfitWord(LabelError):
    """A person's word does not fit what was asked, or edited arguments do not fit the tool."""

    code = "AGS-0335"
    remedy = "Look at what is asked, and at the tool's schema, with `agentsys approvals show`."


class RunTerminated(LabelError):
    """A person ended a run instead of deciding what it asked."""

    code = "AGS-0336"
    remedy = "Read the person's note; fork the run if it shall go on from before the question."


@dataclass(frozen=True, slots=True)
class Word:
    """What the principal ``by`` says. ``binding`` is that of what was shown to the person, where the face says it.

    ``answer`` is that to a question, ``edited`` the arguments or the value of a modification, ``to`` a principal.
    """

    verdict: Verdict
    by: str
    note: str = ""
    answer: Json = None
    edited: Json = None
    to: str = ""
    binding: str | None = None


async def decide(board: Board, approval: str, word: Word) -> Approval:
    """Record a person's word. Raises :class:`~agentsys.approvals.UnknownApproval`, :class:`AlreadyDecided`,
    :class:`ApprovalExpired`, :class:`ApprovalInvalid`, :class:`NotAnApprover`, :class:`UnfitWord`.
    """
    if word.verdict not in VERDICTS:
        raise UnfitWord(f"{word.verdict!r} is no verdict; there are {', '.join(VERDICTS)}.")
    transaction, decided = await asyncio.to_thread(_decided_by, board, approval, word)
    try:
        await submit(board, transaction)
    except Conflict as conflict:
        raise AlreadyDecided(f"Approval {approval} was decided, or its run ended, meanwhile.") from conflict
    return decided


def _decided_by(board: Board, approval: str, word: Word) -> tuple[Transaction, Approval]:
    transaction = board.begin(word.by, run=Approval.load(board, approval).run)
    # Read through the transaction: of two people who decide at once, or of a person and the run's end, one loses.
    entry = transaction.get(topics.APPROVALS, approval)
    assert entry is not None, "approvals are never deleted"
    found = standing(Approval.of(entry), transaction.get)
    _check_open(found, word)
    at = time.time()
    decided = _DECIDED[word.verdict](found, word, at)
    decided.write(transaction)
    if word.verdict == "terminate":
        _end_run(transaction, decided, at)
    return transaction, decided


def _check_open(found: Approval, word: Word) -> None:
    if found.status == "void":
        raise AlreadyDecided(f"Approval {found.id} is void: run {found.run} has ended.")
    if found.status == "expired":
        raise ApprovalExpired(f"Approval {found.id} has expired.")
    if found.status != "pending":
        raise AlreadyDecided(f"Approval {found.id} was {found.status} by {found.decided_by} already.")
    if not found.admits(word.by):
        raise NotAnApprover(f"{word.by} may not decide approval {found.id}: {_why_not(found, word.by)}.")
    if word.binding not in (None, found.binding):
        raise ApprovalInvalid(f"What {word.by} was shown of approval {found.id} is not what waits.")


def _why_not(found: Approval, principal: str) -> str:
    if principal not in found.approvers:
        return f"approvers are {', '.join(found.approvers) or 'nobody'}"
    if found.assigned not in (None, principal):
        return f"it was handed to {found.assigned}"
    return "it may not read what is asked"


def _approve(found: Approval, word: Word, at: float) -> Approval:
    if found.kind != "question" and word.answer is not None:
        raise UnfitWord(f"Approval {found.id} is no question, and takes no answer.")
    return replace(_said(found, word, at), status="approved", answer=word.answer)


def _modify(found: Approval, word: Word, at: float) -> Approval:
    if found.kind == "question":
        raise UnfitWord(f"Approval {found.id} is a question: approve it with an answer instead.")
    if found.kind == "call":
        _check_arguments(found, word.edited)
    return replace(_said(found, word, at), status="modified", edited=word.edited)


def _reject(found: Approval, word: Word, at: float) -> Approval:
    return replace(_said(found, word, at), status="rejected")


def _terminate(found: Approval, word: Word, at: float) -> Approval:
    return replace(_said(found, word, at), status="terminated")


def _escalate(found: Approval, word: Word, at: float) -> Approval:
    handed = replace(found, escalations=(*found.escalations, Escalation(word.by, word.to, at, word.note)))
    if word.to == word.by or not handed.admits(word.to):
        why = "that is who decides now" if word.to == word.by else _why_not(handed, word.to)
        raise NotAnApprover(f"Approval {found.id} cannot be handed to {word.to or 'nobody'}: {why}.")
    return replace(handed, label=_shaped(found, word))


_DECIDED: Final[dict[Verdict, Callable[[Approval, Word, float], Approval]]] = {
    "approve": _approve,
    "modify": _modify,
    "reject": _reject,
    "terminate": _terminate,
    "escalate": _escalate,
}


def _said(found: Approval, word: Word, at: float) -> Approval:
    return replace(found, decided_by=word.by, decided_at=at, note=word.note, label=_shaped(found, word))


def _shaped(found: Approval, word: Word) -> Label:
    # What was asked stays readable to those who could read it.
    return found.label.join(Label.trusted(word.by, found.label.readers))


def _check_arguments(found: Approval, edited: Json) -> None:
    """Say at once what the run's own check would find later."""
    schema: Any = found.schema
    fault = best_match(validator_of(schema).iter_errors(edited))
    if fault is not None:
        raise UnfitWord(f"The arguments do not fit {found.subject}: {fault.json_path}: {fault.message[:500]}.")
    if not isinstance(edited, dict):
        raise UnfitWord(f"The arguments of {found.subject} are an object.")


def _end_run(transaction: Transaction, decided: Approval, at: float) -> None:
    entry = transaction.get(topics.RUNS, decided.run)
    assert entry is not None, "an approval that is pending has a run"
    record = RunRecord.of(entry)
    note = f": {decided.note}" if decided.note else ""
    ended = RunTerminated(f"{decided.decided_by} ended the run at what {decided.agent} asked{note}.")
    label = record.input_label.join(decided.label)
    record.failed(Failure.of(ended), label, at).write(transaction)
    # Whoever executes it commits nothing more, and nobody takes it again.
    give_back(decided.run, transaction, label)
