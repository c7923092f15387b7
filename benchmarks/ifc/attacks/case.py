"""What an attack is: how it is played, when it has won, and the fault under which it must win."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from agentsys.benchmarks.ifc.attacks.stage import Stage

Play: TypeAlias = Callable[[Stage], Awaitable[None]]
Won: TypeAlias = Callable[[Stage], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One attack. ``breaks`` is the property (P1 to P16) that holds no more where it wins, ``under`` a weakening."""

    name: str
    family: str
    breaks: str
    under: str
    play: Play
    won: Won

    @property
    def title(self) -> str:
        """What tells the case from all others."""
        return f"{self.family}: {self.name}"
