"""Approvals as the faces show them: from the raw values, with who shaped each argument, and without a model's words."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentsys.approvals import Approval, ApprovalKind, ApprovalStatus, Escalation
from agentsys.blackboard.entries import Json
from agentsys.views.labels import ViewLabel
from agentsys.views.visible import visible
from agentsys.views.withholding import content


@dataclass(frozen=True, slots=True)
class ArgumentView:
    """One argument, or what else is asked about: ``text`` is the whole of it, with everything hidden written out.

    ``warnings`` say what was written out. ``edited`` is what a person put in its place, ``None`` if nobody did.
    """

    name: str
    text: str
    warnings: tuple[str, ...]
    label: ViewLabel
    edited: str | None


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """A tool call, a question or a value that waits, or waited, for a person's word; times in unix seconds.

    ``tool`` is that of a call, whose name is no secret; ``subject`` is what is asked. ``arguments`` are as they would
    be used, and ``shown`` the same for people. ``binding`` is the digest of everything that is asked; who decides
    repeats it.
    """

    id: str
    run: str
    agent: str
    kind: ApprovalKind
    tool: str
    subject: str | None = field(metadata=content())
    arguments: Json = field(metadata=content())
    shown: tuple[ArgumentView, ...] = field(metadata=content(hidden=()))
    rule: str
    reason: str = field(metadata=content(hidden=""))
    step: str
    effect_class: str
    schema: Json = field(metadata=content())
    policy: str
    approvers: tuple[str, ...]
    assigned: str | None
    asked_at: float
    expires_at: float | None
    status: ApprovalStatus
    decided_by: str | None
    decided_at: float | None
    note: str = field(metadata=content(hidden=""))
    answer: Json = field(metadata=content())
    edited: Json = field(metadata=content())
    escalations: tuple[Escalation, ...] = field(metadata=content(hidden=()))
    binding: str
    label: ViewLabel
    withheld: bool = False

    def decidable_by(self, principal: str) -> bool:
        """Whether a principal may decide it now."""
        return (
            self.status == "pending"
            and not self.withheld
            and principal in self.approvers
            and self.assigned in (None, principal)
        )


def approval_view(approval: Approval) -> ApprovalView:
    """Return an approval as a view, with everything that its label protects."""
    return ApprovalView(
        id=approval.id,
        run=approval.run,
        agent=approval.agent,
        kind=approval.kind,
        tool=approval.subject if approval.kind == "call" else "",
        subject=approval.subject,
        arguments=approval.arguments,
        shown=_shown(approval),
        rule=approval.rule,
        reason=approval.reason,
        step=approval.step,
        effect_class=approval.effect_class,
        schema=approval.schema,
        policy=approval.policy,
        approvers=approval.approvers,
        assigned=approval.assigned,
        asked_at=approval.asked_at,
        expires_at=approval.expires_at,
        status=approval.status,
        decided_by=approval.decided_by,
        decided_at=approval.decided_at,
        note=approval.note,
        answer=approval.answer,
        edited=approval.edited,
        escalations=approval.escalations,
        binding=approval.binding,
        label=approval.label,
    )


def _shown(approval: Approval) -> tuple[ArgumentView, ...]:
    if approval.kind != "call" or not isinstance(approval.arguments, dict):
        return (_argument(approval, approval.kind, approval.arguments, approval.edited),)
    edited = approval.edited if isinstance(approval.edited, dict) else {}
    names = [*approval.arguments, *(name for name in edited if name not in approval.arguments)]
    return tuple(_argument(approval, name, approval.arguments.get(name), edited.get(name)) for name in names)


def _argument(approval: Approval, name: str, asked: Json, edited: Json) -> ArgumentView:
    shown = visible(asked)
    changed = approval.status == "modified" and edited != asked
    replaced = visible(edited).text if changed else None
    return ArgumentView(visible(name).text, shown.text, shown.warnings, approval.label_of(name), replaced)
