"""Quotas: how often tools are called, what a run costs, how much strangers say through endorsed values.

What is spent is an entry of the board that changes in the same commit as what it is spent on, so two who spend at once
cannot both take the last of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from agentsys import topics
from agentsys.blackboard.conflicts import Conflict, KeyConflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import LabelError
from agentsys.policy.policy import Policy

HOUR: Final = 3600


class QuotaExceeded(LabelError):
    """A quota of the policy is used up."""

    code = "AGS-0314"
    remedy = "Wait, where it is an hour's; otherwise raise the limit in the policy, or let trusted data decide."


@dataclass(frozen=True, slots=True)
class Charge:
    """``amount`` of what is counted under ``key``, of which there may be ``limit``; ``what`` says it to people."""

    key: str
    amount: float
    limit: float
    what: str


def charges_of_call(policy: Policy, run: str, tool: str) -> list[Charge]:
    """Return what a call of ``tool`` is charged to."""
    rule, found = policy.rule(tool), list[Charge]()
    if rule.limits.run is not None:
        found.append(Charge(f"{run}/calls/{tool}", 1, rule.limits.run, f"calls of {tool} in the run"))
    if rule.limits.hour is not None:
        hour = int(time.time()) // HOUR
        found.append(Charge(f"hour/{hour}/{tool}", 1, rule.limits.hour, f"calls of {tool} in this hour"))
    if policy.run_cost is not None and rule.cost:
        found.append(Charge(f"{run}/cost", rule.cost, policy.run_cost, "the cost of the run"))
    return found


def charges_of_endorsement(policy: Policy, run: str, label: Label, bits: float) -> list[Charge]:
    """Return whom an endorsed value of ``bits`` is charged to: everybody untrusted who shaped it."""
    return [
        Charge(f"{run}/bits/{name}", bits, policy.budget_bits, f"bits that {name} says through endorsed values")
        for name in sorted(label.shaped_by - policy.trusted)
    ]


def spend(transaction: Transaction, charges: Iterable[Charge]) -> None:
    """Put on record with ``transaction`` that ``charges`` are spent. Raises :class:`QuotaExceeded`."""
    for charge in charges:
        entry = transaction.get(topics.QUOTAS, charge.key)
        body: Any = entry.value if entry is not None else {}
        spent = float(body.get("spent", 0.0)) + charge.amount
        # Three times 0.1 is a little more than 0.3 in floats.
        if spent > charge.limit and not math.isclose(spent, charge.limit):
            raise QuotaExceeded(f"{charge.what} would come to {spent:g}, and {charge.limit:g} is the limit.")
        value: Json = {"spent": spent}
        # How much was spent is known to all; on what is not said.
        transaction.put(topics.QUOTAS, charge.key, value, type="quota", label=BOTTOM, derived_from=())


def is_race(conflict: Conflict) -> bool:
    """Whether a transaction lost only because somebody else spent at the same moment."""
    return all(isinstance(item, KeyConflict) and item.topic == topics.QUOTAS for item in conflict.items)
