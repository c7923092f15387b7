"""How many tokens answers have: log-normal by stage, shrunk towards what all stages have in common."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

_SHRINKAGE: Final = 4.0  # answers of all stages that one of the stage itself outweighs
_NORMAL: Final = NormalDist()
_LEAST_DEVIATION: Final = 0.05
_MOST_STAGES: Final = 4096  # their names are the callers'


@dataclass(slots=True)
class _Logarithms:
    """Running mean and sum of squared deviations (Welford)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        apart = value - self.mean
        self.mean += apart / self.count
        self.squares += apart * (value - self.mean)


class OutputLengths:
    """Lengths of answers by stage. The first guess is 64 tokens, within a factor of e either way."""

    def __init__(self) -> None:
        self._all = _Logarithms(2.0, math.log(64.0), 2.0)
        self._stages: dict[Hashable, _Logarithms] = {}

    def add(self, stage: Hashable, tokens: int) -> None:
        """Learn from an answer."""
        value = math.log(max(tokens, 1))
        self._all.add(value)
        self._stages.setdefault(stage, _Logarithms()).add(value)
        if len(self._stages) > _MOST_STAGES:
            del self._stages[next(iter(self._stages))]

    def expected(self, stage: Hashable, most: int, generated: int = 0) -> float:
        """Return how long an answer of ``stage`` will be that has ``generated`` tokens so far and takes ``most``."""
        mean, deviation = self._shape(stage)
        if generated < 1:
            return min(math.exp(mean + deviation**2 / 2), float(most))
        above = (math.log(generated) - mean) / deviation
        left = _NORMAL.cdf(-above)
        if left < 1e-9:  # longer than any seen: about as much again, as heavy tails have it
            return min(2.0 * generated, float(most))
        expected = math.exp(mean + deviation**2 / 2) * _NORMAL.cdf(deviation - above) / left
        return min(max(expected, generated + 1.0), float(most))

    def quantile(self, stage: Hashable, part: float, most: int) -> float:
        """Return the length that a ``part`` of the answers of ``stage`` do not exceed."""
        mean, deviation = self._shape(stage)
        return min(math.exp(mean + deviation * _NORMAL.inv_cdf(part)), float(most))

    def _shape(self, stage: Hashable) -> tuple[float, float]:
        own, common = self._stages.get(stage), self._all
        variance = common.squares / common.count
        if own is None:
            return common.mean, math.sqrt(max(variance, _LEAST_DEVIATION**2))
        weight = own.count + _SHRINKAGE
        mean = (own.count * own.mean + _SHRINKAGE * common.mean) / weight
        # Of a stage seen often, the distance of its mean from the common one says nothing about its spread.
        spread = (own.squares + _SHRINKAGE * variance / weight) / max(own.count, 1.0)
        return mean, math.sqrt(max(spread, _LEAST_DEVIATION**2))
