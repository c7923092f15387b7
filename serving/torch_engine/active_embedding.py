"""One prompt being turned into a vector."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from agentsys.errors import ServingError
from agentsys.serving.engine_errors import RequestAbortedError
from agentsys.serving.requests import Usage
from agentsys.serving.torch_engine.sequence import SequenceState

Vector = tuple[float, ...]


@dataclass(slots=True, eq=False)
class ActiveEmbedding:
    """State of one prompt of request ``request_id``. ``deliver`` takes the vector, or the error that ends it, from the
    engine's thread.
    """

    sequence: SequenceState
    request_id: str
    deliver: Callable[[Vector | ServingError], None]
    submitted_at: float = field(default_factory=time.perf_counter)
    scheduled_at: float | None = None
    _sum: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def take(self, start: int, states: torch.Tensor) -> None:
        """Add the last hidden states ``[tokens, hidden]`` of the tokens from position ``start`` on."""
        # In double precision, so that where the prompt was cut into steps does not show in the result.
        added = states.to(torch.float64).sum(dim=0)
        # A prompt that lost its blocks starts again.
        self._sum = added if start == 0 else self._sum + added

    def finish(self) -> None:
        """Deliver the mean state, scaled to length 1."""
        vector = torch.nn.functional.normalize(self._sum, dim=0).to(torch.float32)
        self.deliver(tuple(vector.tolist()))

    def abort(self) -> None:
        """End with an error: there is no part of a vector to give."""
        self.deliver(RequestAbortedError(f"{self.sequence.request_id!r} was aborted before it had a vector."))

    def usage(self) -> Usage:
        """Return the token counts: those of the prompt."""
        return Usage(prompt_tokens=self.sequence.prompt_length, preemptions=self.sequence.preemptions)
