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


@dataclass(frozen=True, slots=True)
class VerifyCost:
    """Seconds of a step by its number of rows; linear between measured points and beyond the last."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    @staticmethod
    def measure(step: Callable[[int], float], rows: Sequence[int] = PROBE_ROWS, repeats: int = 4) -> VerifyCost:
        """Time ``step(rows)``, which returns its own seconds, keeping the fastest of ``repeats`` for each size.

        A smaller step never costs more than a larger one: readings disturbed by other processes are lowered.
        """
        # All sizes in every round, so that a burst of other load does not fall on one size alone.
        rounds = [[step(count) for count in rows] for _ in range(repeats)]
        fastest = [min(readings) for readings in zip(*rounds, strict=True)]
        for index in range(len(fastest) - 2, -1, -1):
            fastest[index] = min(fastest[index], fastest[index + 1])
        return VerifyCost(tuple(rows), tuple(fastest))

    def of(self, count: int) -> float:
        """Return the seconds of a step over ``count`` rows."""
        if len(self.rows) == 1:
            return self.seconds[0]
        index = min(max(bisect_left(self.rows, count), 1), len(self.rows) - 1)
        low, high = self.rows[index - 1], self.rows[index]
        slope = (self.seconds[index] - self.seconds[index - 1]) / (high - low)
        return self.seconds[index - 1] + slope * (count - low)


class Acceptance:
    """Running estimate of the chance that a drafted token is right, recent drafts counting most."""

    def __init__(self, expected: float) -> None:
        """``expected`` is the estimate before anything was tried."""
        self._accepted = expected * _PRIOR_WEIGHT
        self._tried = _PRIOR_WEIGHT

    @property
    def rate(self) -> float:
        return self._accepted / self._tried

    def record(self, drafted: int, accepted: int) -> None:
        """Note one verified draft: tokens after the first wrong one were never tried."""
        self._accepted = self._accepted * _DECAY + accepted
        self._tried = self._tried * _DECAY + min(drafted, accepted + 1)


def best_draft_length(cost: VerifyCost, rate: float, rows: int, limit: int) -> int:
    """Return the draft length with the greatest expected tokens per second for a step that has ``rows`` rows.

    ``rate`` is the chance that a drafted token is right. The step's time is everybody's, so a draft must pay for
    slowing all of its rows: past the knee of the cost curve the answer is 0.
    """
    rate = min(rate, 0.99)
    base = cost.of(rows)
    best, best_gain = 0, _MINIMUM_GAIN
    for length in range(1, limit + 1):
        expected = (1 - rate ** (length + 1)) / (1 - rate)
        gain = (rows - 1 + expected) / rows * base / cost.of(rows + length)
        if gain > best_gain:
            best, best_gain = length, gain
    return best
