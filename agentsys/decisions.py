"""The gateway's decisions about one actor, on their way to the board: with rule, reason, labels and policy version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentsys import topics
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.transactions import Transaction
from agentsys.events import Decided
from agentsys.gateway import Allow, AskCall, Decision, Deny, PolicyDenied
from agentsys.scope import RunScope


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision as it lies on the board.

    ``asked`` says that a person is to decide. ``policy`` is a version. ``question`` is what the gateway was asked (see
    :mod:`agentsys.questions`), ``None`` where no policy was: a call is taken back, say, or a word is used.
    """

    agent: str
    action: str
    allowed: bool
    rule: str
    reason: str = ""
    asked: bool = False
    policy: str = ""
    question: Json = None

    @staticmethod
    def of(entry: Entry) -> DecisionRecord:
        body: Any = entry.value
        return DecisionRecord(**body)

    @staticmethod
    def made(
        agent: str, action: str, decision: Decision | AskCall, policy: str, question: Json = None
    ) -> DecisionRecord:
        """Return the record of a decision."""
        reason = "" if isinstance(decision, Allow) else decision.reason
        allowed, asked = isinstance(decision, Allow), isinstance(decision, AskCall)
        return DecisionRecord(agent, action, allowed, decision.rule, reason, asked, policy, question)

    def write(self, transaction: Transaction, run: str, key: str, label: Label) -> None:
        """Put the decision on the record of ``run`` with ``transaction``."""
        body: Json = {name: getattr(self, name) for name in self.__slots__}
        transaction.put(topics.decisions(run), key, body, type="decision", label=label)


@dataclass(frozen=True, slots=True)
class Noted:
    """A decision and what label it has beside the actor's own."""

    action: str
    decision: Decision | AskCall
    label: Label
    question: Json


class DecisionLog:
    """Keeps decisions until the actor's next commit, whichever that is, takes them along."""

    def __init__(self, scope: RunScope, agent: str, control: Callable[[], Label]) -> None:
        """``control`` returns the label of everything delivered to the actor so far."""
        self._scope = scope
        self._agent = agent
        self._control = control
        self.pending: tuple[Noted, ...] = ()

    def note(self, action: str, decision: Decision | AskCall, label: Label = BOTTOM, question: Json = None) -> None:
        """Keep a decision, and tell the listener; ``label`` is of what it was about, beside the actor's own."""
        self.pending += (Noted(action, decision, label, question),)
        if not isinstance(decision, AskCall):
            reason = decision.reason if isinstance(decision, Deny) else ""
            allowed, known = isinstance(decision, Allow), _joined(self._control(), label)
            event = Decided(self._scope.run, self._agent, action, allowed, decision.rule, reason, label=known)
            self._scope.emit(event)

    def note_once(self, action: str, decision: Decision, question: Json) -> None:
        """Keep a decision unless the same one is kept."""
        if not any((kept.action, kept.question) == (action, question) for kept in self.pending):
            self.note(action, decision, question=question)

    def require(self, action: str, decision: Decision, question: Json = None) -> None:
        """Return if the action is allowed. Raises :class:`PolicyDenied` after noting the denial."""
        if isinstance(decision, Deny):
            self.note(action, decision, question=question)
            message = f"{self._agent} may not {action}, by rule {decision.rule}: {decision.reason}."
            raise PolicyDenied(message, rule=decision.rule)

    def take(self) -> tuple[Noted, ...]:
        """Return the kept decisions, and keep them no more: a commit has them on record, or is to have."""
        taken, self.pending = self.pending, ()
        return taken

    def write(self, transaction: Transaction, key: str, label: Label, taken: tuple[Noted, ...] | None = None) -> None:
        """Put decisions on record with ``transaction``, those ``taken`` or kept, under keys that begin with ``key``."""
        policy = self._scope.gateway.policy.version
        for number, noted in enumerate(self.take() if taken is None else taken):
            record = DecisionRecord.made(self._agent, noted.action, noted.decision, policy, noted.question)
            record.write(transaction, self._scope.run, f"{key}/{number}", _joined(label, noted.label))


def _joined(control: Label, label: Label) -> Label:
    return control if label is control or label is BOTTOM else control.join(label)
