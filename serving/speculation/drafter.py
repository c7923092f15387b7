"""What proposes tokens for verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens. ``source`` names the kind of guess, ``expected`` is its usual chance to be right a token."""

    tokens: Sequence[int]
    source: str
    expected: float


class DraftSession(Protocol):
    """Drafts for one sequence; it may keep state, and sees only that sequence, so no draft crosses a label."""

    def propose(self, tokens: Sequence[int], limit: int) -> Draft | None:
        """Return at most ``limit`` guesses at what follows ``tokens``, which only ever grows between calls."""
        ...


class Drafter(Protocol):
    """Opens a session for each new sequence."""

    def session(self) -> DraftSession:
        """Return a fresh session."""
        ...
