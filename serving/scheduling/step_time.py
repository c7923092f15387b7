"""How long one step of an engine takes, learned from the steps it took.

``seconds = base + per_prefill · p + per_sequence · b + per_context · c``: one price for reading the weights, one for
each prompt token computed, one for each sequence that decodes, one for each token that attention reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Iteration:
    """One step of an engine: prompt tokens computed, sequences that decoded, tokens in the context of all, seconds."""

    prefill_tokens: int
    decoding: int
    context_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """The four prices, in seconds."""

    base: float
    per_prefill: float
    per_sequence: float
    per_context: float

    def seconds(self, prefill_tokens: float, decoding: float, context_tokens: float) -> float:
        """Return how long a step with this work takes."""
        return (
            self.base
            + self.per_prefill * prefill_tokens
            + self.per_sequence * decoding
            + self.per_context * context_tokens
        )

    def scaled(self, factor: float) -> StepTime:
        """Return the prices of a replica ``factor`` times as slow."""
        prices = (self.base, self.per_prefill, self.per_sequence, self.per_context)
        return StepTime(*(factor * price for price in prices))


def prefill_chunk(least: int, steps: float, step_time: StepTime | None) -> int:
    """Return the tokens that prompts share in a step beside a more urgent answer.

    ``least``, or as many as take ``steps`` times a step's fixed part if those are more: where prompts are cheap, as on
    a GPU, a smaller chunk would spend more on steps than on prompts.
    """
    if step_time is None or not steps:
        return least
    if step_time.per_prefill <= 0:
        return _MANY_TOKENS
    return max(least, int(min(steps * step_time.base / step_time.per_prefill, _MANY_TOKENS)))


_MANY_TOKENS: Final = 2**20
_FIRST_GUESS: Final = StepTime(base=0.01, per_prefill=1e-3, per_sequence=2e-3, per_context=1e-6)
_STEPS_BETWEEN_FITS: Final = 32
_PRIOR_WEIGHT: Final = 4.0  # steps that the first guess counts for


class StepTimeFit:
    """Weighted least squares over the steps seen, the newest counting most; prices are never negative.

    Relative errors are what counts, so that short decode steps are not drowned by long prefills.
    """

    def __init__(self, guess: StepTime, *, memory: float = 2000.0) -> None:
        """``guess`` is believed like a few steps would be; a step ``memory`` steps ago counts for 1/e of a new one."""
        self._decay = 1.0 - 1.0 / memory
        prices = np.array([guess.base, guess.per_prefill, guess.per_sequence, guess.per_context])
        scale = np.array([1.0, 128.0, 4.0, 2000.0])  # a typical step, which makes the four prices comparable
        weight = _PRIOR_WEIGHT / max(float(prices @ scale), 1e-9) ** 2
        self._moments = np.diag(scale**2) * weight
        self._targets = self._moments @ prices
        self._model: StepTime | None = guess

    @staticmethod
    def of(iterations: Iterable[Iteration], guess: StepTime) -> StepTimeFit:
        """Return a fit of recorded steps."""
        fit = StepTimeFit(guess)
        for iteration in iterations:
            fit.add(iteration)
        return fit

    def add(self, iteration: Iteration) -> None:
        """Learn from a step."""
        if iteration.seconds <= 0:
            return
        row = np.array([1.0, iteration.prefill_tokens, iteration.decoding, iteration.context_tokens])
        weight = 1.0 / iteration.seconds**2
        self._moments = self._decay * self._moments + weight * np.outer(row, row)
        self._targets = self._decay * self._targets + weight * iteration.seconds * row
        self._model = None

    @property
    def model(self) -> StepTime:
        """The prices that fit best."""
        if self._model is None:
            self._model = StepTime(*(float(price) for price in _non_negative(self._moments, self._targets)))
        return self._model


class RunningFit:
    """A fit of the steps as they come; ``model`` is brought up to date every few steps, and None before that."""

    def __init__(self) -> None:
        self.model: StepTime | None = None
        self._fit = StepTimeFit(_FIRST_GUESS)
        self._steps = 0

    def add(self, iteration: Iteration) -> None:
        """Learn from a step."""
        self._fit.add(iteration)
        self._steps += 1
        if self._steps % _STEPS_BETWEEN_FITS == 0:
            self.model = self._fit.model


def _non_negative(moments: Vector, targets: Vector) -> Vector:
    """Solve the normal equations, dropping prices that come out negative, the worst first."""
    kept = list(range(len(targets)))
    prices = np.zeros(len(targets))
    while kept:
        solved = np.linalg.lstsq(moments[np.ix_(kept, kept)], targets[kept], rcond=None)[0]
        if solved.min() >= 0:
            prices[kept] = solved
            return prices
        del kept[int(solved.argmin())]
    return prices
