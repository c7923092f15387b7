"""Using a person's word: what it amounts to is decided once, when the run that asked goes on, and noted on its record.

The run checks that the word is about what its own record says was asked, under the policy of now. The decision and the
intent of the call are one commit, whose effect has the approval's identifier: a word leads to one call at most.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from agentsys import topics
from agentsys.approvals import GRANTED, REFUSED, Approval, ApprovalExpired, ApprovalInvalid
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.labels import Label
from agentsys.blackboard.storage import StorageFailed
from agentsys.decisions import DecisionRecord
from agentsys.errors import AgentsysError, RunError
from agentsys.gateway import Allow, AllowCall, AskCall, Decision, Deny, Gateway, PolicyDenied
from agentsys.journal import RecordEnded, Step, submit
from agentsys.leases import LeaseLost, is_loss
from agentsys.policy.policy import Policy
from agentsys.scope import RunScope

INVALID: Final = "approval-invalid"
EXPIRED: Final = "approval-expired"
REJECTED: Final = "rejected"


class AnswerRefused(RunError):
    """A person was asked a question and refused to answer, or did not answer in time."""

    code = "AGS-0607"
    remedy = "Catch AnswerRefused in the workflow to go on without the answer."


@dataclass(frozen=True, slots=True)
class Used:
    """What a word amounted to, and the call that it allows where it is about one."""

    decision: Decision
    intent: EffectIntent | None = None


async def use(scope: RunScope, asked: Step, approval: Approval, control: Label) -> None:
    """Return where a word allows what was asked, whose call is then planned; ``control`` is the actor's label.

    Raises :class:`~agentsys.approvals.ApprovalInvalid`, :class:`~agentsys.approvals.ApprovalExpired`,
    :class:`AnswerRefused` and :class:`PolicyDenied`.
    """
    key = f"{asked.key}/used"
    noted = await asyncio.to_thread(scope.board.get, topics.decisions(scope.run), key)
    if noted is not None:
        body: Any = noted.value
        decision: Decision = Allow(body["rule"]) if body["allowed"] else Deny(body["rule"], body["reason"])
    elif scope.replaying:
        raise RecordEnded(f"Run {scope.run} has no record of the use of approval {approval.id}.")
    else:
        used = await judged(scope.board, scope.gateway, asked, approval)
        await _record(scope, key, approval, used, control)
        decision = used.decision
    if isinstance(decision, Deny):
        raise denial(approval, decision)


async def judged(board: Board, gateway: Gateway, asked: Step, approval: Approval) -> Used:
    """Return what a word amounts to for the step that asked. An error in the check denies."""
    try:
        fault = await asyncio.to_thread(invalidity, board, gateway.policy, asked, approval)
        if fault is not None:
            return Used(Deny(INVALID, fault))
        if approval.status in REFUSED:
            return Used(refusal(approval))
        return await _call(gateway, approval) if approval.kind == "call" else Used(Allow(approval.status))
    except StorageFailed:
        # That says nothing about the word.
        raise
    except Exception as error:
        return Used(Deny("error-in-check", f"{type(error).__name__}: {error}"))


def invalidity(board: Board, policy: Policy, asked: Step, approval: Approval) -> str | None:
    """Return why a word is not about what the run's own record says was asked, or ``None``."""
    outcome: Any = asked.value
    if approval.binding != outcome["binding"]:
        return "what is on record as decided is not what was asked"
    if not approval.asked_label.flows_to(approval.label):
        return "its label was lowered"
    words = [(entry.writer, Approval.of(entry)) for entry in board.history(topics.APPROVALS, approval.id)]
    given = [(writer, word) for writer, word in words if word.status != "pending"]
    if any(word != approval for _, word in given):
        return "the word was changed after it was given"
    if approval.status in REFUSED:
        return None
    if approval.status not in GRANTED or not given:
        return "nobody has decided it"
    if any(writer != approval.decided_by for writer, _ in given):
        return f"the word of {approval.decided_by} was written by somebody else"
    return _unauthorised(policy, approval)


def _unauthorised(policy: Policy, approval: Approval) -> str | None:
    if approval.policy != policy.version:
        return "it was asked under another policy"
    if approval.decided_by is None or not approval.admits(approval.decided_by):
        return f"{approval.decided_by} may not decide it"
    if approval.expires_at is not None and (approval.decided_at or 0.0) > approval.expires_at:
        return "the word came after it had expired"
    return None


def refusal(approval: Approval) -> Deny:
    """Return the denial that a refusal amounts to."""
    if approval.status == "expired":
        return Deny(EXPIRED, "nobody decided in time")
    return Deny(REJECTED, f"{approval.decided_by} rejected it{': ' * bool(approval.note)}{approval.note}")


def denial(approval: Approval, decision: Deny) -> AgentsysError:
    """Return the error that tells an actor so."""
    if approval.kind == "question" and decision.rule in (REJECTED, EXPIRED):
        return AnswerRefused(f"There is no answer: {decision.reason}.")
    kind = {INVALID: ApprovalInvalid, EXPIRED: ApprovalExpired}.get(decision.rule, PolicyDenied)
    message = f"{_action(approval)} was denied by rule {decision.rule}: {decision.reason}."
    return kind(message, rule=decision.rule)


async def _call(gateway: Gateway, approval: Approval) -> Used:
    """Let the gateway look at the call again, with what a person edited: a word stands in for its asking alone."""
    granted: Any = approval.granted
    shaped = {name: approval.label_of(name) for name in granted}
    labels = {name: label for name, label in shaped.items() if label != approval.control}
    decision = await gateway.judge(approval.subject, granted, control=approval.control, labels=labels)
    if not isinstance(decision, AllowCall | AskCall):
        return Used(decision)
    label = approval.control.join(*shaped.values())
    intent = EffectIntent(
        approval.id,
        approval.run,
        approval.step,
        approval.subject,
        EffectClass(approval.effect_class),
        decision.arguments,
        label,
    )
    return Used(Allow(approval.status), intent)


def _action(approval: Approval) -> str:
    if approval.kind == "call":
        return f"call {approval.subject}"
    return "use an answer" if approval.kind == "question" else f"vouch for {approval.subject}"


async def _record(scope: RunScope, key: str, approval: Approval, used: Used, control: Label) -> None:
    transaction = scope.journal.begin(f"agent:{approval.agent}")
    record = DecisionRecord.made(approval.agent, _action(approval), used.decision, scope.gateway.policy.version)
    record.write(transaction, scope.run, key, control.join(approval.label))
    if used.intent is not None:
        transaction.plan_effect(used.intent)
    try:
        await submit(scope.board, transaction)
    except Conflict as conflict:
        if is_loss(conflict):
            raise LeaseLost(f"Run {scope.run} is not this process's any more.") from conflict
        raise
