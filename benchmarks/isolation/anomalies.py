"""What the checkers report, and which of it each isolation level forbids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentsys.blackboard.commits import Isolation

PERMITTED: Final[dict[Isolation, frozenset[str]]] = {
    "serializable": frozenset(),
    "snapshot": frozenset({"G2", "G2-process", "phantom"}),
}
"""Snapshot isolation permits write skew: cycles with two neighbouring anti-dependencies, and nothing else."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding: its ``kind`` in Adya's and Elle's names, and a text that shows the transactions concerned."""

    kind: str
    text: str


def forbidden(found: Iterable[Anomaly], level: Isolation) -> list[Anomaly]:
    """Return what must not be there at ``level``."""
    return [anomaly for anomaly in found if anomaly.kind not in PERMITTED[level]]
