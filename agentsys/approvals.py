"""Approvals: what waits for a person's word, a tool call or a question, as labelled entries of one reserved topic."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import LabelError

ApprovalStatus = Literal["pending", "approved", "refused"]


class UnknownApproval(LabelError):
    """No approval has this identifier."""

    code = "AGS-0330"
    remedy = "List the approvals with Runtime.approvals()."


class AlreadyDecided(LabelError):
    """An approval was decided before; a decision is made once."""

    code = "AGS-0331"
    remedy = "Read the decision that stands; a decision cannot be taken back."


@dataclass(frozen=True, slots=True)
class Approval:
    """Something a person is asked: ``subject`` is a tool's name or a question's text. Times are unix seconds."""

    id: str
    run: str
    agent: str
    kind: Literal["call", "question"]
    subject: str
    arguments: Json
    rule: str
    reason: str
    asked_at: float
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
        return Approval.of(entry)

    def decided(self, status: ApprovalStatus, by: str, at: float, note: str, answer: Json) -> Approval:
        """Return the approval with a person's word. Raises :class:`AlreadyDecided`."""
        if self.status != "pending":
            raise AlreadyDecided(f"Approval {self.id} was {self.status} by {self.decided_by} already.")
        label = self.label.join(Label.trusted(by))
        return replace(self, status=status, decided_by=by, decided_at=at, note=note, answer=answer, label=label)

    def write(self, transaction: Transaction) -> None:
        body: Json = {name: value for name, value in asdict(self).items() if name not in ("id", "label")}
        transaction.put(topics.APPROVALS, self.id, body, type="approval", label=self.label)


def list_approvals(board: Board, status: ApprovalStatus | None = None, run: str | None = None) -> list[Approval]:
    """Return the approvals, the oldest first, of one status or run where given."""
    found = [Approval.of(entry) for entry in board.query(Predicate(topic=topics.APPROVALS))]
    chosen = [one for one in found if status in (None, one.status) and run in (None, one.run)]
    return sorted(chosen, key=lambda one: (one.asked_at, one.id))
