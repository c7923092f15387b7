"""The log-probabilities of a token and of its likeliest rivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agentsys.serving.requests import TokenLogprob, TokenLogprobs
from agentsys.serving.torch_engine.sampling import Logits


@dataclass(frozen=True, slots=True)
class LogprobReader:
    """Reads the ``top`` likeliest tokens off each row of logits; ``text`` gives a token's bytes."""

    top: int
    text: Callable[[int], bytes]

    def read(self, logits: Logits, token: int) -> TokenLogprobs:
        """Return what the model itself, before temperature and grammar, says of ``token``: ``logits`` ``[vocab]``."""
        row = logits.astype(np.float64)
        highest = row.max()
        row -= highest + np.log(np.exp(row - highest).sum())
        top = np.argpartition(-row, self.top)[: self.top] if self.top < len(row) else np.arange(len(row))
        ranked = sorted((int(item) for item in top), key=lambda item: (-row[item], item))
        return TokenLogprobs(self._of(token, row), tuple(self._of(item, row) for item in ranked))

    def _of(self, token: int, row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> TokenLogprob:
        return TokenLogprob(token, self.text(token), float(row[token]))
