"""What a request adds to the logits of single tokens, whatever the model thinks of them.

Source: OpenAI's API reference, ``logit_bias``, and its guide's "Frequency and presence penalties".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from agentsys.serving.requests import SamplingParams
from agentsys.serving.torch_engine.sampling import Logits


@dataclass(slots=True)
class TokenBias:
    """The bias of tokens that a request names, less the penalties of those that its answer has said.

    It follows from the answer alone, so neither batch neighbours nor preemption nor the way that drafts cut it into
    steps can change a choice: each token is chosen under what was said before it.
    """

    params: SamplingParams
    _counts: Counter[int] = field(default_factory=Counter)
    _offsets: dict[int, float] = field(default_factory=dict)

    @staticmethod
    def of(params: SamplingParams, answered: Iterable[int]) -> TokenBias | None:
        """Return the bias after the tokens ``answered``; ``None`` where the request asks for none."""
        if not params.penalises and not params.logit_bias:
            return None
        bias = TokenBias(params, _offsets=dict(params.logit_bias))
        for token in answered:
            bias.count(token)
        return bias

    def count(self, token: int) -> None:
        """Note that the answer goes on with ``token``."""
        if not self.params.penalises:
            return
        self._counts[token] += 1
        # From the count anew, since a sum of parts would depend on their rounding.
        penalty = self._counts[token] * self.params.frequency_penalty + self.params.presence_penalty
        self._offsets[token] = self.params.logit_bias.get(token, 0.0) - penalty

    def applied(self, logits: Logits) -> Logits:
        """Return a copy of ``logits`` ``[vocab]`` with the bias in it."""
        found = logits.copy()
        tokens = np.fromiter(self._offsets, np.intp, len(self._offsets))
        found[tokens] += np.fromiter(self._offsets.values(), np.float32, len(self._offsets))
        return found
