"""What the scheduler knows of one request: its tokens, its place in the queue, its blocks."""

from __future__ import annotations

import math
from collections.abc import MutableSequence
from dataclasses import dataclass, field

from agentsys.serving.torch_engine.block_pool import chain_digest


@dataclass(slots=True, eq=False)
class SequenceState:
    """One request inside the engine.

    ``tokens`` is the prompt followed by what was generated; the first ``computed`` of them have their keys and values
    in ``blocks``. ``limit`` is the greatest length ``tokens`` may reach. ``arrival`` breaks ties of equal urgency.
    ``latest`` bounds the urgency from above, on its clock: however unhurried a request is, it falls due then, and
    whatever arrives later with a later κ cannot starve it.

    Without ``reuses_prefix`` every token is computed here, for its hidden state is wanted.
    ``turn`` counts the steps in which it advanced, or the tokens that came of them, since it got its slot. It
    lost its slot ``displaced`` times; ``preemptions`` also counts the times it lost its blocks in its slot. Once the
    scheduler has it, κ changes by ``Scheduler.rekey`` alone.
    """

    request_id: str
    tokens: MutableSequence[int]
    prompt_length: int
    limit: int
    urgency: float
    arrival: int
    domain: bytes
    latest: float = math.inf
    reuses_prefix: bool = True
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    cached_tokens: int | None = None
    preemptions: int = 0
    displaced: int = 0
    turn: int = 0
    _digests: list[bytes] = field(default_factory=list)

    @property
    def key(self) -> tuple[float, int]:
        """Order of service: smallest first."""
        return (min(self.urgency, self.latest), self.arrival)

    @property
    def remaining(self) -> int:
        """Known tokens without keys and values; at least one, since the last token is computed to get the next."""
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        return self.computed > 0 and self.remaining == 1

    def block_digests(self, block_size: int, tokens: int) -> list[bytes]:
        """Return the chain of the full blocks among the first ``tokens`` tokens."""
        full = tokens // block_size
        while len(self._digests) < full:
            start = len(self._digests) * block_size
            parent = self._digests[-1] if self._digests else self.domain
            self._digests.append(chain_digest(parent, self.tokens[start : start + block_size]))
        return self._digests[:full]
