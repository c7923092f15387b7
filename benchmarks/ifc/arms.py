"""The arms of the comparison: one shipped policy a suite, with less and less of it taken away."""

from __future__ import annotations

import copy
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from agentsys.blackboard.labels import EXTERNAL
from agentsys.policy.endorsers import Refused
from agentsys.policy.policy import Policy

POLICIES: Final = Path(__file__).parent / "policies"

DIRECTORIES: Final = frozenset(
    {"contacts", "channels", "members", "sites", "hotels", "restaurants", "car_companies", "paid_before"}
)
"""Domains that are lists which the owner keeps. What else has an endorser is bounded by its type alone."""


Attacker = Literal["direct", "careful", "spoiling"]
"""What a reader in quarantine does where the attacker's text is in its data: nothing of the attacker's (``direct``, who
aims at the planner alone); what serves the attacker's order and goes unnoticed (``careful``); everything wrong."""


@dataclass(frozen=True, slots=True)
class Arm:
    """``defended``: strangers are not trusted. ``hiding``: results of theirs are hidden from the planner.

    ``typed`` and ``directories``: endorsers by type, and by directory. ``approver``: a person answers what is asked.
    """

    name: str
    defended: bool = True
    hiding: bool = True
    typed: bool = True
    directories: bool = True
    approver: bool = False

    def policy(self, suite: str) -> Policy:
        """Return the policy of a suite in this arm."""
        return _policy(self, suite)


ARMS: Final = (
    Arm("none", defended=False, hiding=False),
    Arm("taint", hiding=False),
    Arm("hiding", typed=False, directories=False),
    Arm("+ types", directories=False),
    Arm("+ directories"),
    Arm("+ approver", approver=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the comparison: an arm, against an attacker."""

    name: str
    arm: Arm
    attacker: Attacker


FULL: Final = Row(ARMS[4].name, ARMS[4], "careful")
SPOILED: Final = Row("  spoiling", ARMS[4], "spoiling")
IDEAL: Final = Row(ARMS[5].name, ARMS[5], "careful")
DIRECT: Final = Row("  direct", ARMS[5], "direct")
ROWS: Final = (*(Row(arm.name, arm, "careful") for arm in ARMS[:4]), FULL, SPOILED, IDEAL, DIRECT)
NONE: Final = ROWS[0]


def document(suite: str) -> dict[str, Any]:
    """Return the shipped policy of a suite as it is written."""
    return tomllib.loads((POLICIES / f"{suite}.toml").read_text(encoding="utf-8"))


def endorser_for(suite: str, value: Any) -> str | None:
    """Return the first endorser of final answers in the shipped policy whose domain has ``value``."""
    policy = _policy(ARMS[-1], suite)
    for name in policy.answer.endorsers:
        by = policy.endorsers[name]
        try:
            by.admit(value, policy.domains[by.domain].members(None) if by.domain else ())
        except Refused:
            continue
        return name
    return None


@cache
def _policy(arm: Arm, suite: str) -> Policy:
    written = copy.deepcopy(document(suite))
    if not arm.defended:
        written["trusted"].append(EXTERNAL)
    kept = [name for name, endorser in written["endorsers"].items() if _is_kept(arm, endorser)]
    written["answer"]["endorsers"] = _only(kept, written["answer"]["endorsers"])
    for rule in written["tools"].values():
        rule["control_endorsers"] = _only(kept, rule.get("control_endorsers", []))
        for argument in rule.get("arguments", {}).values():
            argument["endorsers"] = _only(kept, argument.get("endorsers", []))
        if not arm.approver:
            # Whoever would have to be asked is not there.
            rule["ask"] = "never"
    return Policy.model_validate(written)


def _is_kept(arm: Arm, endorser: dict[str, Any]) -> bool:
    return arm.directories if endorser.get("domain") in DIRECTORIES else arm.typed


def _only(kept: list[str], names: list[str]) -> list[str]:
    return [name for name in names if name in kept]
