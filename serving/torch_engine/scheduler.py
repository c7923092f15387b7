"""Which sequences run in the next step, on how many tokens, in which blocks.

Pure code: it needs neither a model nor a clock, so tests and a simulator drive the very scheduler that serves.

Every step serves the smallest keys (κ, then arrival) first. The first ``max_batch`` sequences in that order hold the
slots; each of them that decodes is sure of one token of the step's budget, prefills share the rest in order of key,
and drafts take what is left. A sequence without a slot pauses and keeps its blocks until a more urgent one needs
them; then it loses them and is computed again later, mostly from the prefix cache. The smallest key can take every
block of all others, so it always advances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agentsys.serving.engine_errors import RequestTooLongError
from agentsys.serving.torch_engine.block_pool import BlockPool
from agentsys.serving.torch_engine.sequence import SequenceState


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of one step and of one sequence; all counts, tokens unless named otherwise."""

    num_blocks: int
    block_size: int
    context_length: int
    max_batch: int = 16
    max_step_tokens: int = 256

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_step_tokens < self.max_batch:
            raise ValueError(f"need 1 <= max_batch <= max_step_tokens, got {self.max_batch} and {self.max_step_tokens}")

    @property
    def longest(self) -> int:
        """Greatest length of a sequence: its context, or all of the KV cache."""
        return min(self.context_length, self.num_blocks * self.block_size)


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's share of a step: ``count`` known tokens from ``start`` on, then ``draft``."""

    sequence: SequenceState
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def completes(self) -> bool:
        """Whether the step reaches the last known token, so that new tokens come out of it."""
        return self.start + self.count == len(self.sequence.tokens)


DraftSource = Callable[[SequenceState, int, int], Sequence[int]]
"""Called with a sequence, the rows already in the step and the most tokens it may draft; returns the draft."""


def no_drafts(_sequence: SequenceState, _rows: int, _limit: int) -> Sequence[int]:
    """Draft nothing: the default source."""
    return ()


class Scheduler:
    """Owns the queue and the blocks. Not thread-safe: the engine's thread drives it."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.num_blocks)
        self.preemptions = 0
        self._sequences: dict[str, SequenceState] = {}
        self._running: dict[str, SequenceState] = {}

    @property
    def waiting(self) -> int:
        return len(self._sequences) - len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    def phase(self, sequence: SequenceState) -> Literal["waiting", "prefill", "decode", "paused"]:
        """Say what a queued sequence does: see :class:`~agentsys.serving.engine.QueuedRequest`."""
        if sequence.request_id in self._running:
            return "decode" if sequence.is_decoding else "prefill"
        return "waiting" if sequence.cached_tokens is None else "paused"

    def get(self, request_id: str) -> SequenceState | None:
        return self._sequences.get(request_id)

    def add(self, sequence: SequenceState) -> None:
        """Queue a sequence; raises :class:`RequestTooLongError` if it could never run."""
        longest = self.limits.longest
        if sequence.prompt_length >= longest:
            raise RequestTooLongError(
                f"the prompt has {sequence.prompt_length} tokens; context {self.limits.context_length} and KV cache "
                f"{self.limits.num_blocks * self.limits.block_size} leave room for at most {longest - 1}."
            )
        sequence.limit = min(sequence.limit, longest)
        self._sequences[sequence.request_id] = sequence

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence that ended or was aborted; its full blocks stay findable."""
        self._sequences.pop(sequence.request_id, None)
        self._running.pop(sequence.request_id, None)
        self._release(sequence)

    def schedule(self, draft: DraftSource = no_drafts) -> list[Work]:
        """Choose the next step's work in order of key; empty only if no sequence is queued."""
        order = sorted(self._sequences.values(), key=lambda sequence: sequence.key)
        chosen = order[: self.limits.max_batch]
        decoding = {sequence.request_id for sequence in chosen if sequence.is_decoding}
        budget = self.limits.max_step_tokens
        works: list[Work] = []
        for sequence in chosen:
            decoding.discard(sequence.request_id)
            self._reuse_prefix(sequence)
            work = self._fit(sequence, budget - len(decoding), order)
            if work is not None:
                budget -= work.count
                works.append(work)
        self._note_displaced(works)
        return self._with_drafts(works, budget, draft)

    def commit(self, work: Work, new_tokens: Sequence[int]) -> None:
        """Record a step's outcome: the known tokens are computed, and ``new_tokens`` follow them.

        Of the new tokens all but the last were drafted, so their keys and values are already in the blocks.
        """
        sequence = work.sequence
        sequence.computed = work.start + work.count
        if new_tokens:
            sequence.tokens.extend(new_tokens)
            sequence.computed += len(new_tokens) - 1
        needed = -(-sequence.computed // self.limits.block_size)
        self.pool.release(sequence.blocks[needed:])
        del sequence.blocks[needed:]
        digests = sequence.block_digests(self.limits.block_size, sequence.computed)
        for block, digest in zip(sequence.blocks, digests, strict=False):
            self.pool.name(block, digest)

    def _reuse_prefix(self, sequence: SequenceState) -> None:
        if sequence.blocks:
            return
        # The last token is always computed: its logits are what the step is for.
        digests = sequence.block_digests(self.limits.block_size, len(sequence.tokens) - 1)
        sequence.blocks = self.pool.match(digests)
        sequence.computed = len(sequence.blocks) * self.limits.block_size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed

    def _fit(self, sequence: SequenceState, budget: int, order: list[SequenceState]) -> Work | None:
        count = min(sequence.remaining, budget)
        if count < 1:
            return None
        block_size = self.limits.block_size
        missing = -(-(sequence.computed + count) // block_size) - len(sequence.blocks)
        self._evict_after(sequence, missing, order)
        granted = min(missing, self.pool.available)
        sequence.blocks.extend(self.pool.take(granted))
        count = min(count, len(sequence.blocks) * block_size - sequence.computed)
        return Work(sequence, sequence.computed, count) if count > 0 else None

    def _evict_after(self, sequence: SequenceState, missing: int, order: list[SequenceState]) -> None:
        for victim in reversed(order):
            if self.pool.available >= missing or victim is sequence:
                return
            self._release(victim)

    def _release(self, sequence: SequenceState) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0

    def _note_displaced(self, works: list[Work]) -> None:
        now = {work.sequence.request_id: work.sequence for work in works}
        for request_id, sequence in self._running.items():
            if request_id not in now:
                sequence.preemptions += 1
                self.preemptions += 1
        self._running = now

    def _with_drafts(self, works: list[Work], budget: int, draft: DraftSource) -> list[Work]:
        rows = sum(work.count for work in works)
        drafted: list[Work] = []
        for work in works:
            sequence, end = work.sequence, work.start + work.count
            room = len(sequence.blocks) * self.limits.block_size + self.pool.available * self.limits.block_size - end
            # One new token comes without a draft, so a draft that reaches the limit would be thrown away.
            limit = min(budget, room, sequence.limit - len(sequence.tokens) - 1)
            tokens = tuple(draft(sequence, rows, limit))[:limit] if work.completes and limit > 0 else ()
            missing = -(-(end + len(tokens)) // self.limits.block_size) - len(sequence.blocks)
            sequence.blocks.extend(self.pool.take(missing))
            budget -= len(tokens)
            drafted.append(Work(sequence, work.start, work.count, tokens))
        return drafted
