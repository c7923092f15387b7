"""Which sequences run in the next step, on how many tokens, in which blocks.

Pure code: it needs neither a model nor a clock, so tests and a simulator drive the very scheduler that serves.

Each step serves the holders of the slots (:mod:`~agentsys.serving.torch_engine.slots`) in order of key, κ and then
arrival. Those that decode are sure of one token of the step's budget, prefills share the rest in order of key, the
ones behind a more urgent decode only a part of it, and drafts take what is left. A sequence without a slot pauses and
keeps its blocks until a holder needs them; then it loses them and is computed again later, mostly from the prefix
cache. The smallest key among the holders can take every block of all others, so it always advances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agentsys.serving.engine_errors import RequestTooLongError
from agentsys.serving.scheduling.pacing import Runnable, concurrency
from agentsys.serving.scheduling.step_time import StepTime, prefill_chunk
from agentsys.serving.torch_engine.block_pool import BlockPool
from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.sequence import SequenceState
from agentsys.serving.torch_engine.slots import Slots


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
    """Owns the queue and the blocks. Not thread-safe: the engine's thread drives it.

    ``step_time`` is what adaptive concurrency reckons with; without it all slots run.
    """

    def __init__(self, limits: SchedulerLimits, step_time: StepTime | None = None) -> None:
        self.limits = limits
        self.step_time = step_time
        self.pool = BlockPool(limits.num_blocks)
        self.preemptions = 0
        self._slots = Slots(limits)
        self._sequences: dict[str, SequenceState] = {}
        # Sequences without a slot that still have their blocks, and those of the step that runs.
        self._paused: dict[str, SequenceState] = {}
        self._running: dict[str, SequenceState] = {}

    @property
    def waiting(self) -> int:
        return self._slots.waiting

    @property
    def running(self) -> int:
        return self._slots.held

    def holds_slot(self, request_id: str) -> bool:
        """Tell whether a sequence holds a slot, which it may while it does not run in a step."""
        return self._slots.holds(request_id)

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
        self._slots.add(sequence)

    def rekey(self, request_id: str, urgency: float) -> None:
        """Change κ of a sequence that waits or runs; unknown ids are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.urgency = urgency
            self._slots.add(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence that ended or was aborted; its full blocks stay findable."""
        for known in (self._sequences, self._running, self._paused):
            known.pop(sequence.request_id, None)
        self._slots.remove(sequence)
        self._release(sequence)

    def schedule(self, draft: DraftSource = no_drafts, *, now: float | None = None) -> list[Work]:
        """Choose the next step's work in order of key; empty only if no sequence is queued.

        ``now`` is on κ's clock, unix seconds; without it, no κ is known to have come, and all slots run.
        """
        order = self._order(now)
        decoding = {sequence.request_id for sequence in order if sequence.is_decoding}
        limits = self.limits
        chunk = prefill_chunk(limits.prefill_chunk, limits.prefill_steps, self.step_time)
        budget, decodes = limits.max_step_tokens, False
        works: list[Work] = []
        for sequence in order:
            decoding.discard(sequence.request_id)
            self._reuse_prefix(sequence)
            capped = decodes and not sequence.is_decoding
            most = budget - len(decoding)
            work = self._fit(sequence, min(most, chunk) if capped else most)
            decodes = decodes or sequence.is_decoding
            if work is not None:
                budget -= work.count
                chunk -= work.count if capped else 0
                works.append(work)
        self._running = {work.sequence.request_id: work.sequence for work in works}
        return self._with_drafts(works, budget, draft)

    def commit(self, work: Work, new_tokens: Sequence[int]) -> None:
        """Record a step's outcome: the known tokens are computed, and ``new_tokens`` follow them.

        Of the new tokens all but the last were drafted, so their keys and values are already in the blocks.
        """
        sequence, block_size = work.sequence, self.limits.block_size
        named = sequence.computed // block_size
        sequence.turn += max(len(new_tokens), 1)
        sequence.computed = work.start + work.count
        if new_tokens:
            sequence.tokens.extend(new_tokens)
            sequence.computed += len(new_tokens) - 1
        needed = -(-sequence.computed // block_size)
        self.pool.release(sequence.blocks[needed:])
        del sequence.blocks[needed:]
        digests = sequence.block_digests(block_size, sequence.computed)
        for block, digest in zip(sequence.blocks[named:], digests[named:], strict=False):
            self.pool.name(block, digest)

    def _order(self, now: float | None) -> Sequence[SequenceState]:
        for sequence in self._slots.assign():
            self.preemptions += sequence.turn > 0
            if sequence.blocks:
                self._paused[sequence.request_id] = sequence
        holders = sorted(self._slots.holders, key=lambda sequence: sequence.key)
        for sequence in holders:
            self._paused.pop(sequence.request_id, None)
        if now is None or self.step_time is None:
            return holders
        runnable = [Runnable(sequence.key[0], len(sequence.tokens)) for sequence in holders]
        slowdown, hurry = self.limits.slowdown, self.limits.hurry
        return holders[: concurrency(runnable, now, self.step_time, slowdown=slowdown, hurry=hurry)]

    def _reuse_prefix(self, sequence: SequenceState) -> None:
        if sequence.blocks:
            return
        # The last token is always computed: its logits are what the step is for.
        digests = sequence.block_digests(self.limits.block_size, len(sequence.tokens) - 1)
        sequence.blocks = self.pool.match(digests) if sequence.reuses_prefix else []
        sequence.computed = len(sequence.blocks) * self.limits.block_size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed

    def _fit(self, sequence: SequenceState, most: int) -> Work | None:
        count = min(sequence.remaining, most)
        if count < 1:
            return None
        block_size = self.limits.block_size
        missing = -(-(sequence.computed + count) // block_size) - len(sequence.blocks)
        self._evict_for(sequence, missing)
        granted = min(missing, self.pool.available)
        sequence.blocks.extend(self.pool.take(granted))
        count = min(count, len(sequence.blocks) * block_size - sequence.computed)
        return Work(sequence, sequence.computed, count) if count > 0 else None

    def _evict_for(self, sequence: SequenceState, missing: int) -> None:
        """Take blocks of those that have no slot, then of less urgent holders, until ``missing`` are available."""
        if self.pool.available >= missing:
            return
        # Were a paused sequence spared for its smaller key, the holders might never advance and it never get a slot.
        for victim in sorted(self._paused.values(), key=lambda item: item.key, reverse=True):
            self._release(self._paused.pop(victim.request_id))
            if self.pool.available >= missing:
                return
        for victim in sorted(self._slots.holders, key=lambda item: item.key, reverse=True):
            if victim is sequence or self.pool.available >= missing:
                return
            if victim.blocks and victim.turn > 0:
                victim.preemptions += 1
                self.preemptions += 1
            self._release(victim)

    def _release(self, sequence: SequenceState) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0

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
