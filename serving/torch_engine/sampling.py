"""Choose the next token from one row of logits.

Every draw depends on the request's seed and the token's position alone, so batch neighbours, preemption and
speculation cannot change a sampled answer: a drafted token is accepted exactly when the draw at its position,
from the target's own distribution, is that token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentsys.serving.requests import SamplingParams

Logits = npt.NDArray[np.float32]
_SEED_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sampler:
    """Greedy choice at temperature 0, else a draw at ``temperature`` from the smallest set of mass ``top_p``."""

    temperature: float
    top_p: float
    seed: int

    @staticmethod
    def of(params: SamplingParams, fallback_seed: int) -> Sampler:
        """Build from request parameters; ``fallback_seed`` serves requests that name none."""
        seed = fallback_seed if params.seed is None else params.seed
        return Sampler(params.temperature, params.top_p, seed & _SEED_MASK)

    def choose(self, logits: Logits, allowed: npt.NDArray[np.bool_] | None, position: int) -> int:
        """Return a token id for ``logits`` of shape ``[vocab]``.

        ``allowed`` has the same shape and says which tokens may be chosen; None allows all. ``position`` is the index
        the new token will have in its sequence.
        """
        if allowed is not None:
            logits = np.where(allowed, logits, np.float32(-np.inf))
        # numpy's argmax over a vocabulary takes a twentieth of torch's.
        return int(logits.argmax()) if self.temperature == 0.0 else self._draw(logits, position)

    def _draw(self, logits: Logits, position: int) -> int:
        weights = np.exp((logits - logits.max()).astype(np.float64) / self.temperature)
        tokens = None
        if self.top_p < 1.0:
            tokens = np.argsort(-weights, kind="stable")
            weights = weights[tokens]
            kept = int(np.searchsorted(np.cumsum(weights), self.top_p * weights.sum())) + 1
            weights = weights[:kept]
        cumulative = np.cumsum(weights)
        drawn = int(np.searchsorted(cumulative, self._uniform(position) * cumulative[-1], side="right"))
        # Rounding may put the draw on the total itself, past the last token that has any weight.
        drawn = min(drawn, int(np.flatnonzero(weights)[-1]))
        return drawn if tokens is None else int(tokens[drawn])

    def _uniform(self, position: int) -> float:
        # As uint64, since a list would pass through float64 and merge neighbouring seeds.
        key = np.array([self.seed, position], dtype=np.uint64)
        return float(np.random.Generator(np.random.Philox(key=key)).random())
