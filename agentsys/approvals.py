"""Approvals: what waits for a person's word, as labelled entries of one reserved topic.

An approval binds everything that the person is shown: the resolved arguments, their labels, the run and its step, the
policy's version, who may decide, and until when. Its :attr:`~Approval.binding` is a digest over all of these, which the
run's own record repeats, so that a word about anything else opens nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, Json, canonical_json
from agentsys.blackboard.labels import BOTTOM, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import AgentsysError, LabelError
from agentsys.gateway import PolicyDenied

ApprovalKind = Literal["call", "question", "value"]
"""A tool call to be made, a question to be answered, or a value to be vouched for."""

ApprovalStatus = Literal["pending", "approved", "modified", "rejected", "terminated", "expired", "void"]
"""``void``: the run ended before anybody decided. ``expired``: nobody did in time, which counts as rejected."""

GRANTED: Final = ("approved", "modified")
REFUSED: Final = ("rejected", "expired", "terminated")
STATUSES: Final = ("pending", *GRANTED, *REFUSED, "void")


class UnknownApproval(AgentsysError):
    """No approval has this identifier."""

    code = "AGS-0330"
    remedy = "List the approvals with `agentsys approvals list`, or with Runtime.approvals()."


class AlreadyDecided(LabelError):
    """An approval was decided before, or its run ended; a decision is made once."""

    code = "AGS-0331"
    remedy = "Read the decision that stands; a decision cannot be taken back."


class ApprovalInvalid(PolicyDenied):
    """What was approved is not what would be done, or was approved under another policy: nothing is done."""

    code = "AGS-0332"
    remedy = "Let the run ask again: fork it from before the question, and look at what is asked anew."


class ApprovalExpired(PolicyDenied):
    """A word came after its approval had expired, or none came in time."""

    code = "AGS-0333"
    remedy = "Let the run ask again, or set approvals.expire_seconds higher."


class NotAnApprover(PolicyDenied):
    """A principal decided, or was handed, what it may not decide: the policy or the label keeps it from that."""

    code = "AGS-0334"
    remedy = "Name the principal in the policy's approvers, or leave it to one who may read what is asked."


@dataclass(frozen=True, slots=True)
class Escalation:
    """An approval was handed on; ``at`` in unix seconds."""

    by: str
    to: str
    at: float
    note: str


_WORD: Final = ("status", "decided_by", "decided_at", "note", "answer", "edited", "escalations")
"""Fields that a person's word fills. All others are bound."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Something a person is asked: ``subject`` is a tool's or value's name, or a question's text.

    Times are unix seconds. The identifier is also that of the call's effect; ``step`` is the step of the run that
    waits. ``control`` is the label of who asks, ``labels`` are of those arguments that carry their own. ``schema`` is
    the JSON schema of a tool's arguments. ``policy`` is a version, ``after`` the newest commit when it was asked.
    ``edited`` is what a person put in the place of the arguments.
    """

    id: str
    run: str
    agent: str
    kind: ApprovalKind
    subject: str
    arguments: Json
    rule: str
    reason: str
    asked_at: float
    step: str = ""
    effect_class: str = ""
    control: Label = BOTTOM
    labels: dict[str, Label] = field(default_factory=dict)
    schema: Json = None
    policy: str = ""
    approvers: tuple[str, ...] = ()
    expires_at: float | None = None
    after: int = 0
    status: ApprovalStatus = "pending"
    decided_by: str | None = None
    decided_at: float | None = None
    note: str = ""
    answer: Json = None
    edited: Json = None
    escalations: tuple[Escalation, ...] = ()
    label: Label = BOTTOM
    """Of the entry: who shaped what is asked, and later the word, and who may read either."""

    @staticmethod
    def of(entry: Entry) -> Approval:
        """Read an approval as it was written. Raises :class:`ApprovalInvalid`."""
        try:
            body: Any = dict(entry.value) if isinstance(entry.value, dict) else {}
            body["control"] = Label.from_json(body["control"])
            body["labels"] = {name: Label.from_json(label) for name, label in body["labels"].items()}
            body["approvers"] = tuple(body["approvers"])
            body["escalations"] = tuple(Escalation(**one) for one in body["escalations"])
            read = Approval(id=entry.key, label=entry.label, **body)
            # For its errors alone: what was bound must stay as it was written.
            _checks().validate_python({each.name: getattr(read, each.name) for each in fields(read)})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ApprovalInvalid(f"What the board has as approval {entry.key} is none: {error!r}.") from error
        return read

    @staticmethod
    def load(board: Board, approval: str) -> Approval:
        """Read an approval as it stands now. Raises :class:`UnknownApproval`."""
        entry = board.get(topics.APPROVALS, approval)
        if entry is None:
            raise UnknownApproval(f"The board has no approval {approval!r}.")
        return standing(Approval.of(entry), board.get)

    @property
    def binding(self) -> str:
        """A digest (SHA-256) over everything that was asked."""
        bound = {name: value for name, value in self._body().items() if name not in _WORD}
        return hashlib.sha256(canonical_json({**bound, "id": self.id}).encode()).hexdigest()

    @property
    def asked_label(self) -> Label:
        """Who shaped what is asked, and who may read it."""
        return self.control.join(*self.labels.values())

    @property
    def granted(self) -> Json:
        """The arguments, or the value, that a person's word is about."""
        return self.edited if self.status == "modified" else self.arguments

    @property
    def assigned(self) -> str | None:
        """To whom it was handed on last, who alone may decide it then."""
        return self.escalations[-1].to if self.escalations else None

    def label_of(self, argument: str) -> Label:
        """Return who shaped an argument, and who may read it; of one that a person edited, that is the person."""
        whole = self.kind != "call"
        asked, given = (side if whole else _named(side).get(argument) for side in (self.arguments, self.granted))
        if self.status == "modified" and asked != given and self.decided_by is not None:
            return Label.trusted(self.decided_by, self.label.readers)
        return self.labels.get(argument, self.control)

    def admits(self, principal: str) -> bool:
        """Whether a principal may decide: it is an approver who may read what is asked, and whom it was handed to."""
        may_read = self.label.readers.permits(Readers.of(principal))
        return may_read and principal in self.approvers and self.assigned in (None, principal)

    def write(self, transaction: Transaction) -> None:
        transaction.put(topics.APPROVALS, self.id, self._body(), type="approval", label=self.label)

    def _body(self) -> dict[str, Json]:
        plain = {name: value for name, value in asdict(self).items() if name not in ("id", "label")}
        return {
            **plain,
            "control": self.control.to_json(),
            "labels": {name: label.to_json() for name, label in self.labels.items()},
            "approvers": list(self.approvers),
            "escalations": [asdict(one) for one in self.escalations],
        }


@cache
def _checks() -> TypeAdapter[Approval]:
    return TypeAdapter(Approval)


def list_approvals(board: Board, status: ApprovalStatus | None = None, run: str | None = None) -> list[Approval]:
    """Return the approvals, the oldest first, of one status or run where given."""
    stored = "pending" if status in ("void", "expired") else status
    wanted: dict[str, Json] = {} if stored is None or status == "expired" else {"status": stored}
    if run is not None:
        wanted["run"] = run
    stored_ones = board.query(Predicate(topic=topics.APPROVALS, equals=wanted))
    found = in_order(standing(one, board.get) for one in _readable(stored_ones))
    return [one for one in found if status in (None, one.status)]


def _readable(entries: Iterable[Entry]) -> Iterable[Approval]:
    """Yield the approvals among entries; what is none hides no other."""
    for entry in entries:
        with suppress(ApprovalInvalid):
            yield Approval.of(entry)


def in_order(approvals: Iterable[Approval]) -> list[Approval]:
    """Return approvals in the order in which they were asked for, whatever the clock did meanwhile."""
    return sorted(approvals, key=lambda one: (one.after, one.asked_at, one.id))


def standing(approval: Approval, get: Callable[[str, str], Entry | None]) -> Approval:
    """Return an approval as void, or expired, where nobody can decide it any more; ``get`` reads the board."""
    if approval.status != "pending":
        return approval
    record = get(topics.RUNS, approval.run)
    body: Any = record.value if record is not None else {}
    if body.get("status") != "running":
        return replace(approval, status="void")
    late = approval.expires_at is not None and time.time() > approval.expires_at
    return replace(approval, status="expired") if late else approval


def _named(arguments: Json) -> dict[str, Json]:
    return arguments if isinstance(arguments, dict) else {}
