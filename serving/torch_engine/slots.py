"""Who holds the engine's slots and who waits for one: preemption with bounds.

Slots go to the smallest keys (κ, then arrival). A held slot changes hands only within the bounds of
:class:`~agentsys.serving.torch_engine.limits.SchedulerLimits`; a sequence that has not advanced since it got its slot
may always be passed over, as nothing is lost by it. Hence the smallest key of all holds a slot, or every holder is
within the margin, in its quantum, or was preempted as often as it may be, and the slot comes free when the first of
them leaves that state or ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import count

from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.sequence import SequenceState

_STALE_ENTRIES = 64


class Slots:
    """The holders and the queue behind them; a step costs little however long the queue is."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._holders: dict[str, SequenceState] = {}
        self._waiting: dict[str, SequenceState] = {}
        # An entry whose key is no longer its sequence's, or whose sequence no longer waits, is stale and skipped.
        self._heap: list[tuple[tuple[float, int], int, SequenceState]] = []
        self._serial = count()

    @property
    def holders(self) -> Iterable[SequenceState]:
        return self._holders.values()

    @property
    def held(self) -> int:
        return len(self._holders)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def holds(self, request_id: str) -> bool:
        return request_id in self._holders

    def add(self, sequence: SequenceState) -> None:
        """Queue a sequence; also to be called when the key of one that waits has changed."""
        if sequence.request_id in self._holders:
            return
        self._waiting[sequence.request_id] = sequence
        if len(self._heap) > 2 * len(self._waiting) + _STALE_ENTRIES:
            self._heap = [self._entry(waiting) for waiting in self._waiting.values()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, self._entry(sequence))

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence, whether it holds a slot or waits."""
        self._holders.pop(sequence.request_id, None)
        self._waiting.pop(sequence.request_id, None)

    def assign(self) -> list[SequenceState]:
        """Give out the slots for a step; returns the sequences that lost theirs."""
        displaced: list[SequenceState] = []
        challenger = self._first()
        while challenger is not None:
            if len(self._holders) >= self._limits.max_batch:
                victim = self._victim(challenger)
                if victim is None:
                    break
                self._displace(victim)
                displaced.append(victim)
            del self._waiting[challenger.request_id]
            self._holders[challenger.request_id] = challenger
            challenger.turn = 0
            challenger = self._first()
        return displaced

    def _first(self) -> SequenceState | None:
        while self._heap:
            key, _, sequence = self._heap[0]
            if self._waiting.get(sequence.request_id) is sequence and sequence.key == key:
                return sequence
            heapq.heappop(self._heap)
        return None

    def _victim(self, challenger: SequenceState) -> SequenceState | None:
        """Return the least urgent holder that must yield to ``challenger``."""
        yielding = [holder for holder in self._holders.values() if self._yields(holder, challenger)]
        return max(yielding, key=lambda holder: holder.key, default=None)

    def _yields(self, holder: SequenceState, challenger: SequenceState) -> bool:
        # The gap of two calls without hurry is not a number, and no number is smaller than that.
        if not holder.key[0] - challenger.key[0] > self._limits.preemption_margin:
            return False
        rested = holder.turn >= self._limits.preemption_quantum and holder.displaced < self._limits.max_preemptions
        return holder.turn == 0 or rested

    def _displace(self, victim: SequenceState) -> None:
        del self._holders[victim.request_id]
        if victim.turn > 0:
            victim.displaced += 1
            victim.preemptions += 1
        self.add(victim)

    def _entry(self, sequence: SequenceState) -> tuple[tuple[float, int], int, SequenceState]:
        return sequence.key, next(self._serial), sequence
