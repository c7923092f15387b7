"""How many tokens to draft: the measured price of verifying rows against the chance that they are right.

The price differs by weight format and machine (a verify of 4 rows costs 1.2 to 1.8 plain steps on CPUs measured), so
it is measured at start-up and not assumed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PROBE_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_MINIMUM_GAIN = 1.03
_PRIOR_WEIGHT = 4.0
_DECAY = 0.9
_PROBE_EVERY = 32


@dataclass(frozen=True, slots=True)
class VerifyCost:
    """Seconds of a step by its number of rows; linear between measured points and beyond the last."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    @staticmethod
    def measure(step: Callable[[int], float], rows: Sequence[int] = PROBE_ROWS, repeats: int = 3) -> VerifyCost:
        """Time ``step(rows)``, which returns its own seconds, keeping the fastest of ``repeats`` for each size.

        A smaller step never costs more than a larger one: readings disturbed by other processes are lowered.
        """
        fastest = [min(step(count) for _ in range(repeats)) for count in rows]
        for index in range(len(fastest) - 2, -1, -1):
            fastest[index] = min(fastest[index], fastest[index + 1])
        return VerifyCost(tuple(rows), tuple(fastest))

    def of(self, count: int) -> float:
        """Return the seconds of a step over ``count`` rows."""
        index = min(max(bisect_left(self.rows, count), 1), len(self.rows) - 1)
        low, high = self.rows[index - 1], self.rows[index]
        slope = (self.seconds[index] - self.seconds[index - 1]) / (high - low)
        return self.seconds[index - 1] + slope * (count - low)


@dataclass(slots=True)
class Acceptance:
    """Running estimate of the chance that a drafted token is right, recent drafts counting most."""

    accepted: float = 0.5 * _PRIOR_WEIGHT
    tried: float = _PRIOR_WEIGHT
    idle_steps: int = 0

    @property
    def rate(self) -> float:
        return self.accepted / self.tried

    def record(self, drafted: int, accepted: int) -> None:
        """Note one verified draft: tokens after the first wrong one were never tried."""
        tried = min(drafted, accepted + 1)
        self.accepted = self.accepted * _DECAY + accepted
        self.tried = self.tried * _DECAY + tried
        self.idle_steps = 0


def best_draft_length(cost: VerifyCost, acceptance: Acceptance, rows: int, limit: int) -> int:
    """Return the draft length with the greatest expected tokens per second for a step that has ``rows`` rows.

    The other rows' time is everybody's, so a draft must pay for slowing the whole step: past the knee of the cost
    curve the answer is 0. A sequence whose drafts failed tries a single token now and then, to notice a change.
    """
    rate = min(acceptance.rate, 0.99)
    base = cost.of(rows)
    best, best_gain = 0, _MINIMUM_GAIN
    for length in range(1, limit + 1):
        expected = (1 - rate ** (length + 1)) / (1 - rate)
        # Each of the other sequences in the step still yields its token, later by the added time.
        gain = (rows - 1 + expected) / rows * base / cost.of(rows + length)
        if gain > best_gain:
            best, best_gain = length, gain
    if best == 0 and rows == 1 and limit > 0:
        acceptance.idle_steps += 1
        if acceptance.idle_steps % _PROBE_EVERY == 0:
            return 1
    return best
