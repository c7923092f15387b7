"""Approvals: what waits for a person's word, a tool call or a question, as labelled entries of one reserved topic.

The word on a call, the gateway's decision that it amounts to and the intent of the call are one commit, so an approval
leads to the very call that was shown, and to no second one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import BOTTOM, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.decisions import write_decision
from agentsys.errors import LabelError
from agentsys.gateway import Allow, Decision, Deny, PolicyDenied
from agentsys.journal import submit

ApprovalStatus = Literal["pending", "approved", "refused", "void"]
"""``void``: the run ended before anybody decided."""

Verdict = Literal["approve", "refuse"]

_STATUS: Final[dict[Verdict, ApprovalStatus]] = {"approve": "approved", "refuse": "refused"}


class UnknownApproval(LabelError):
    """No approval has this identifier."""

    code = "AGS-0330"
    remedy = "List the approvals with `agentsys approvals list`, or with Runtime.approvals()."


class AlreadyDecided(LabelError):
    """An approval was decided before, or its run ended; a decision is made once."""

    code = "AGS-0331"
    remedy = "Read the decision that stands; a decision cannot be taken back."


@dataclass(frozen=True, slots=True)
class Approval:
    """Something a person is asked: ``subject`` is a tool's name or a question's text. Times are unix seconds.

    The identifier is also that of the call's effect; ``step`` is the step of the run that waits.
    """

    id: str
    run: str
    agent: str
    kind: Literal["call", "question"]
    subject: str
    arguments: Json
    rule: str
    reason: str
    asked_at: float
    step: str = ""
    effect_class: str = ""
    status: ApprovalStatus = "pending"
    decided_by: str | None = None
    decided_at: float | None = None
    note: str = ""
    answer: Json = None
    label: Label = BOTTOM

    @staticmethod
    def of(entry: Entry) -> Approval:
        body: Any = entry.value
        return Approval(id=entry.key, label=entry.label, **body)

    @staticmethod
    def load(board: Board, approval: str) -> Approval:
        """Read an approval. Raises :class:`UnknownApproval`."""
        entry = board.get(topics.APPROVALS, approval)
        if entry is None:
            raise UnknownApproval(f"The board has no approval {approval!r}.")
        return _standing(Approval.of(entry), board.get)

    @property
    def verdict(self) -> Decision:
        """What a person's word amounts to."""
        if self.status == "approved":
            return Allow("approved")
        return Deny("refused", f"{self.decided_by} refused it{': ' * bool(self.note)}{self.note}")

    def decided(self, status: ApprovalStatus, by: str, at: float, note: str, answer: Json) -> Approval:
        """Return the approval with a person's word.

        Raises :class:`AlreadyDecided`, and :class:`PolicyDenied` where that person may not read what is asked.
        """
        if self.status == "void":
            raise AlreadyDecided(f"Approval {self.id} is void: run {self.run} has ended.")
        if self.status != "pending":
            raise AlreadyDecided(f"Approval {self.id} was {self.status} by {self.decided_by} already.")
        if not self.label.readers.permits(Readers.of(by)):
            raise PolicyDenied(f"{by} may not read what approval {self.id} is about, and so cannot decide it.")
        label = self.label.join(Label.trusted(by))
        return replace(self, status=status, decided_by=by, decided_at=at, note=note, answer=answer, label=label)

    def write(self, transaction: Transaction) -> None:
        body: Json = {name: value for name, value in asdict(self).items() if name not in ("id", "label")}
        transaction.put(topics.APPROVALS, self.id, body, type="approval", label=self.label)

    @property
    def intent(self) -> EffectIntent:
        """The call that an approval allows, as it was shown."""
        effect_class = EffectClass(self.effect_class)
        return EffectIntent(self.id, self.run, self.step, self.subject, effect_class, self.arguments, self.label)


def list_approvals(board: Board, status: ApprovalStatus | None = None, run: str | None = None) -> list[Approval]:
    """Return the approvals, the oldest first, of one status or run where given."""
    stored = "pending" if status == "void" else status
    wanted: dict[str, Json] = {} if stored is None else {"status": stored}
    if run is not None:
        wanted["run"] = run
    stored_ones = board.query(Predicate(topic=topics.APPROVALS, equals=wanted))
    found = (_standing(Approval.of(entry), board.get) for entry in stored_ones)
    return sorted((one for one in found if status in (None, one.status)), key=lambda one: (one.asked_at, one.id))


async def decide(
    board: Board, approval: str, verdict: Verdict, *, by: str, note: str = "", answer: Json = None
) -> Approval:
    """Record the word of the person ``by``; of a call, with the decision and the intent that follow from it.

    Raises :class:`UnknownApproval`, :class:`AlreadyDecided`, :class:`~agentsys.gateway.PolicyDenied`.
    """
    transaction = board.begin(by, run=Approval.load(board, approval).run)
    # Read through the transaction: of two people who decide at once, or of a person and the run's end, one loses.
    entry = transaction.get(topics.APPROVALS, approval)
    assert entry is not None, "approvals are never deleted"
    found = _standing(Approval.of(entry), transaction.get)
    decided = found.decided(_STATUS[verdict], by, time.time(), note, answer)
    decided.write(transaction)
    if decided.kind == "call":
        write_decision(
            transaction,
            decided.run,
            f"{decided.step}/decided",
            decided.agent,
            f"call {decided.subject}",
            decided.verdict,
            decided.label,
        )
        if verdict == "approve":
            transaction.plan_effect(decided.intent)
    try:
        await submit(board, transaction)
    except Conflict as conflict:
        raise AlreadyDecided(f"Approval {approval} was decided, or its run ended, meanwhile.") from conflict
    return decided


def _standing(approval: Approval, get: Callable[[str, str], Entry | None]) -> Approval:
    """Return an approval as void where it waits for nothing any more; ``get`` reads the board."""
    if approval.status != "pending":
        return approval
    record = get(topics.RUNS, approval.run)
    body: Any = record.value if record is not None else {}
    return approval if body.get("status") == "running" else replace(approval, status="void")
