"""Choose the next token from one row of logits.

Every draw depends on the request's seed and the token's position alone, so batch neighbours, preemption and
speculation cannot change a sampled answer: a drafted token is accepted exactly when the draw at its position,
from the target's own distribution, is that token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from agentsys.serving.requests import SamplingParams

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

    def choose(self, logits: torch.Tensor, allowed: torch.Tensor | None, position: int) -> int:
        """Return a token id for float32 ``logits`` of shape ``[vocab]``.

        ``allowed`` is a bool tensor of the same shape, or None if all tokens are. ``position`` is the index the new
        token will have in its sequence.
        """
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        if self.temperature == 0.0:
            return int(logits.argmax())
        return self._draw(torch.softmax(logits.double() / self.temperature, dim=-1), position)

    def _draw(self, probabilities: torch.Tensor, position: int) -> int:
        # As uint64, since a list would pass through float64 and merge neighbouring seeds.
        key = np.array([self.seed, position], dtype=np.uint64)
        uniform = np.random.Generator(np.random.Philox(key=key)).random()
        ordered, tokens = torch.sort(probabilities, descending=True, stable=True)
        cumulative = torch.cumsum(ordered, dim=0)
        kept = int(torch.searchsorted(cumulative, min(self.top_p, float(cumulative[-1])))) + 1
        kept = min(kept, len(tokens))
        drawn = int(torch.searchsorted(cumulative[:kept], uniform * float(cumulative[kept - 1]), right=True))
        return int(tokens[min(drawn, kept - 1)])
