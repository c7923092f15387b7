"""The documents of the routes for what waits for a person's word."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentsys.approvals import Approval, ApprovalStatus
from agentsys.protocols.http.schemas import LabelDocument
from agentsys.views.withholding import may_read


class ApprovalDocument(BaseModel):
    """A tool call or a question that waits, or waited, for a person's word."""

    id: str
    run: str
    agent: str
    kind: Literal["call", "question"]
    subject: str | None
    arguments: Any
    rule: str
    reason: str | None
    step: str
    effect_class: str
    asked_at: float
    status: ApprovalStatus
    decided_by: str | None
    decided_at: float | None
    note: str | None
    answer: Any
    label: LabelDocument
    withheld: bool

    @staticmethod
    def of(approval: Approval, reader: str) -> ApprovalDocument:
        seen = may_read(approval.label, reader)
        told = seen or approval.kind == "call"
        return ApprovalDocument(
            id=approval.id,
            run=approval.run,
            agent=approval.agent,
            kind=approval.kind,
            # Of a call, its tool's name, which is no secret; of a question, its text.
            subject=approval.subject if told else None,
            arguments=approval.arguments if seen else None,
            rule=approval.rule,
            reason=approval.reason if seen else None,
            step=approval.step,
            effect_class=approval.effect_class,
            asked_at=approval.asked_at,
            status=approval.status,
            decided_by=approval.decided_by,
            decided_at=approval.decided_at,
            note=approval.note if seen else None,
            answer=approval.answer if seen else None,
            label=LabelDocument.of(approval.label),
            withheld=not seen,
        )


class Word(BaseModel):
    """What a person says about an approval; ``answer`` is that to a question."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field("", max_length=4000)
    answer: Any = None
