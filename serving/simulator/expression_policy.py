"""A policy of two expressions: what orders calls, and what chooses their replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS, CallFacts, Option, UrgencyPolicy
from agentsys.serving.simulator.expressions import Expression, parse

KEY_NAMES: Final = (
    "now",
    "deadline",
    "arrived",
    "workflow_arrived",
    "path",
    "work",
    "own",
    "attained",
    "lead",
    "demoted",
    "prompt",
    "tokens",
)
COST_NAMES: Final = (
    "wait",
    "backlog",
    "prefill",
    "decode",
    "finish",
    "harm",
    "delay",
    "batch",
    "slots",
    "part",
    "slack",
    "path",
    "prompt",
    "tokens",
)
_FAR: Final = 1e5  # seconds from arrival to the deadline of a call that has none
_EARLIEST: Final = -1e12
_OURS: Final = UrgencyPolicy()
FIRST_KEY: Final = f"deadline - path + {_OURS.fairness} * lead"
FIRST_COST: Final = (
    f"{_OURS.haste} * finish + {1 - _OURS.haste} * max(finish - part, 0) + {_OURS.harm} * harm + {_OURS.delay} * delay"
)
"""What :class:`~agentsys.serving.scheduling.policy.UrgencyPolicy` does, written as expressions."""


@dataclass(frozen=True, slots=True)
class ExpressionPolicy:
    """A :class:`~agentsys.serving.scheduling.policy.Policy`; the cap on waiting holds whatever the expressions say.

    The names stand for the fields of ``CallFacts`` and ``Option``. ``part`` are the seconds of a workflow's time that
    are this call's (see ``UrgencyPolicy``), ``slack`` those that its path leaves.
    """

    key_expression: Expression
    cost_expression: Expression
    longest_wait: float = LONGEST_WAIT_SECONDS
    early: bool = False

    @staticmethod
    def of(key: str, cost: str) -> ExpressionPolicy:
        """Read both. Raises ``ExpressionError``."""
        return ExpressionPolicy(parse(key, KEY_NAMES), parse(cost, COST_NAMES))

    def key(self, call: CallFacts, now: float) -> float:
        names = {
            "now": now,
            "deadline": min(call.deadline, call.workflow_arrived + _FAR),
            "arrived": call.arrived,
            "workflow_arrived": call.workflow_arrived,
            "path": call.path,
            "work": call.work,
            "own": call.own,
            "attained": call.attained,
            "lead": call.lead,
            "demoted": float(call.demoted),
            "prompt": float(call.prompt_tokens),
            "tokens": call.expected_tokens,
        }
        latest = call.arrived + self.longest_wait
        return max(min(self.key_expression.value(names), latest), _EARLIEST)

    def cost(self, call: CallFacts, option: Option, now: float) -> float:
        left = min(call.deadline, now + self.longest_wait) - now
        names = {
            "wait": option.wait,
            "backlog": option.backlog,
            "prefill": option.prefill,
            "decode": option.decode,
            "finish": option.finish,
            "harm": option.harm,
            "delay": option.delay,
            "batch": float(option.batch),
            "slots": float(option.slots),
            "part": max(left * call.own / max(call.path, call.own, 1e-9), 0.0),
            "slack": left - call.path,
            "path": call.path,
            "prompt": float(call.prompt_tokens),
            "tokens": call.expected_tokens,
        }
        return self.cost_expression.value(names)

    def to_json(self) -> dict[str, str]:
        """Return both texts."""
        return {"key": str(self.key_expression), "cost": str(self.cost_expression)}
