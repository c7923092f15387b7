"""The torch engine's scheduler on the virtual clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final

from agentsys.serving.scheduling.calls import ReplicaSpec
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.simulator.replica import Outcome, ReplicaTotals, SimulatedCall, Stretch
from agentsys.serving.torch_engine.limits import SchedulerLimits, Tuning
from agentsys.serving.torch_engine.scheduler import Scheduler, Work
from agentsys.serving.torch_engine.sequence import SequenceState

ANSWER: Final = 7
"""The token that every simulated answer consists of."""


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What a simulated engine is like beside its slots and step times; tokens.

    ``prefill_chunk`` of the tuning is the whole step by default, as in engines that know no urgency.
    """

    block_size: int = 32
    max_step_tokens: int = 2048
    context_length: int = 16_384
    tuning: Tuning = field(default_factory=lambda: Tuning(prefill_chunk=2048))


class TorchReplica:
    """See :class:`~agentsys.serving.simulator.replica.SimulatedReplica`.

    While a step's sequences all decode, and none ends and no command comes, the scheduler would choose the same again:
    such steps are taken in one stretch. ``skip`` False takes each by itself, with the same outcome, but for which of
    several cached prefixes goes first when memory is short.

    Where the spec says ``preemptive`` False, the scheduler gets no more calls than it has slots, the most urgent of
    those that wait whenever one ends: so engines behave that order what waits and let run what runs.
    """

    def __init__(self, spec: ReplicaSpec, shape: EngineShape, *, skip: bool = True) -> None:
        self.spec = spec
        self.totals = ReplicaTotals()
        self.busy_until: float | None = None
        self.iterations: list[Iteration] | None = None
        self.scheduler = Scheduler(
            SchedulerLimits(
                num_blocks=spec.kv_tokens // shape.block_size,
                block_size=shape.block_size,
                context_length=shape.context_length,
                max_batch=spec.slots,
                max_step_tokens=shape.max_step_tokens,
                **asdict(shape.tuning),
            ),
            spec.step_time,
        )
        # Pacing looks at the clock in every step.
        self._skip = skip and math.isinf(shape.tuning.slowdown)
        self._commands: list[Callable[[], None]] = []
        self._held: list[tuple[float, int, SequenceState]] = []
        self._works: list[Work] = []
        self._stretch = Stretch(0.0, 0, 0.0, 0.0)
        self._prefill = 0

    def submit(self, call: SimulatedCall, now: float) -> None:
        tokens = [first + place for first, count in call.segments for place in range(count)]
        sequence = SequenceState(
            request_id=call.call_id,
            tokens=tokens,
            prompt_length=len(tokens),
            limit=len(tokens) + call.completion_tokens,
            urgency=call.urgency,
            arrival=call.arrival,
            domain=call.domain,
            latest=now + LONGEST_WAIT_SECONDS,
        )
        self._command(partial(self._add, sequence), now)

    def abort(self, call_id: str, now: float) -> None:
        def remove() -> None:
            self._held = [held for held in self._held if held[2].request_id != call_id]
            heapq.heapify(self._held)
            sequence = self.scheduler.get(call_id)
            if sequence is not None:
                self.scheduler.remove(sequence)

        self._command(remove, now)

    def rekey(self, call_id: str, urgency: float, now: float) -> None:
        def change() -> None:
            self._held = [(urgency if held[2].request_id == call_id else held[0], *held[1:]) for held in self._held]
            heapq.heapify(self._held)
            self.scheduler.rekey(call_id, urgency)

        self._command(change, now)

    def begin(self, now: float) -> None:
        while self._held and self.scheduler.running + self.scheduler.waiting < self.spec.slots:
            sequence = heapq.heappop(self._held)[2]
            # All that run have the same urgency, so none gives way to another.
            sequence.urgency = 0.0
            self.scheduler.add(sequence)
        self._works = self.scheduler.schedule(now=now)
        if not self._works:
            self.busy_until = None
            return
        decoding = sum(_decodes(work) for work in self._works)
        self._prefill = sum(work.count for work in self._works if not _decodes(work))
        context = sum(work.start + work.count for work in self._works)
        prices = self.spec.step_time
        self._stretch = Stretch(
            began=now,
            steps=self._steady_steps() if self._skip and decoding == len(self._works) else 1,
            first_seconds=prices.seconds(self._prefill, decoding, context),
            growth_seconds=prices.per_context * decoding,
        )
        if self.iterations is not None:
            self.iterations.append(Iteration(self._prefill, decoding, context, self._stretch.first_seconds))
        self.totals.schedules += 1
        self.busy_until = self._stretch.end

    def progress(self, now: float) -> Mapping[str, int]:
        done = self._stretch.done_by(now) if self.busy_until is not None else 0
        if not done:
            return {}
        return {work.sequence.request_id: _answered(work.sequence) + done for work in self._works if work.completes}

    def finish(self) -> Outcome:
        stretch = self._stretch
        self.totals.steps += stretch.steps
        self.totals.busy_seconds += stretch.seconds(stretch.steps)
        self.totals.prefill_tokens += self._prefill
        at, self.busy_until = stretch.end, None
        tokens: dict[str, int] = {}
        ended: dict[str, int] = {}
        for work in self._works:
            sequence, completes = work.sequence, work.completes
            self._commit(work, stretch.steps)
            if completes:
                tokens[sequence.request_id] = _answered(sequence)
                self.totals.decode_tokens += stretch.steps
            if len(sequence.tokens) >= sequence.limit:
                self.scheduler.remove(sequence)
                ended[sequence.request_id] = sequence.cached_tokens or 0
        self._works = []
        self.totals.preemptions = self.scheduler.preemptions
        for command in self._commands:
            command()
        self._commands.clear()
        return Outcome(at, tokens, ended)

    def _add(self, sequence: SequenceState) -> None:
        if self.spec.preemptive:
            self.scheduler.add(sequence)
        else:
            heapq.heappush(self._held, (sequence.urgency, sequence.arrival, sequence))

    def _command(self, command: Callable[[], None], now: float) -> None:
        if self.busy_until is None:
            command()
            return
        self._commands.append(command)
        done = self._stretch.done_by(now)
        running_step = done if self._stretch.began + self._stretch.seconds(done) == now and done else done + 1
        self._stretch.steps = min(self._stretch.steps, running_step)
        self.busy_until = self._stretch.end

    def _steady_steps(self) -> int:
        """Return for how many steps the scheduler would choose the same.

        That is until a sequence ends, one whose slot others wait for has had its quantum, or blocks run short.
        """
        limits, works = self.scheduler.limits, self._works
        if len(works) < self.scheduler.running:
            return 1
        steps = min(work.sequence.limit - len(work.sequence.tokens) for work in works)
        if self.scheduler.waiting:
            quanta = (limits.preemption_quantum - work.sequence.turn for work in works)
            steps = min(steps, *(left for left in quanta if left > 0), steps)
        missing = sum(_missing_blocks(work, steps, limits.block_size) for work in works)
        return steps if missing <= self.scheduler.pool.available else 1

    def _commit(self, work: Work, steps: int) -> None:
        # Further tokens of a stretch have their keys and values already, as accepted drafts have.
        missing = _missing_blocks(work, steps, self.scheduler.limits.block_size)
        work.sequence.blocks.extend(self.scheduler.pool.take(missing))
        self.scheduler.commit(work, [ANSWER] * steps if work.completes else [])


def _decodes(work: Work) -> bool:
    return work.count == 1 and work.start > 0 and work.completes


def _answered(sequence: SequenceState) -> int:
    return len(sequence.tokens) - sequence.prompt_length


def _missing_blocks(work: Work, steps: int, block_size: int) -> int:
    return max(0, -(-(work.start + work.count + steps - 1) // block_size) - len(work.sequence.blocks))
