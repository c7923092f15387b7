"""The gateway's decisions about one actor, on their way to the board."""

from __future__ import annotations

from collections.abc import Callable

from agentsys import topics
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.transactions import Transaction
from agentsys.events import Decided
from agentsys.gateway import Allow, AskCall, Decision, Deny, PolicyDenied
from agentsys.scope import RunScope


class DecisionLog:
    """Keeps decisions until the actor's next commit, whichever that is, takes them along."""

    def __init__(self, scope: RunScope, agent: str, control: Callable[[], Label]) -> None:
        """``control`` returns the label of everything delivered to the actor so far."""
        self._scope = scope
        self._agent = agent
        self._control = control
        self.pending: tuple[tuple[str, Decision | AskCall, Label], ...] = ()
        """What, how decided, with what label beside the actor's own."""

    def note(self, action: str, decision: Decision | AskCall, label: Label = BOTTOM) -> None:
        """Keep a decision, and tell the listener; ``label`` is of what it was about, beside the actor's own."""
        self.pending += ((action, decision, label),)
        if not isinstance(decision, AskCall):
            reason = decision.reason if isinstance(decision, Deny) else ""
            allowed, known = isinstance(decision, Allow), self._control().join(label)
            event = Decided(self._scope.run, self._agent, action, allowed, decision.rule, reason, label=known)
            self._scope.emit(event)

    def require(self, action: str, decision: Decision) -> None:
        """Return if the action is allowed. Raises :class:`PolicyDenied` after noting the denial."""
        if isinstance(decision, Deny):
            self.note(action, decision)
            message = f"{self._agent} may not {action}, by rule {decision.rule}: {decision.reason}."
            raise PolicyDenied(message, rule=decision.rule)

    def drop(self) -> None:
        """Forget the kept decisions: a commit that is being repeated has them on record."""
        self.pending = ()

    def write(self, transaction: Transaction, key: str, label: Label) -> None:
        """Put the kept decisions on record with ``transaction``, under keys that begin with ``key``."""
        for number, (action, decision, about) in enumerate(self.pending):
            where, joined = f"{key}/{number}", label.join(about)
            policy = self._scope.gateway.policy.version
            write_decision(transaction, self._scope.run, where, self._agent, action, decision, joined, policy)
        self.drop()


def write_decision(
    transaction: Transaction,
    run: str,
    key: str,
    agent: str,
    action: str,
    decision: Decision | AskCall,
    label: Label,
    policy: str,
) -> None:
    """Put one decision about ``agent``, under a version of the policy, on the record of ``run``."""
    body = {
        "agent": agent,
        "action": action,
        "allowed": isinstance(decision, Allow),
        "asked": isinstance(decision, AskCall),
        "rule": decision.rule,
        "reason": "" if isinstance(decision, Allow) else decision.reason,
        "policy": policy,
    }
    transaction.put(topics.decisions(run), key, body, type="decision", label=label)
