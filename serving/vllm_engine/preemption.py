"""Who gives way to whom: the decisions of the scheduler inside vLLM, in pure code.

Keys are κ in integer milliseconds of unix time, as vLLM's ``priority`` carries them; the smaller is the more urgent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple

from agentsys.serving.scheduling.step_time import StepTime, prefill_chunk


@dataclass(frozen=True, slots=True)
class UrgencyLimits:
    """What bounds preemption, prefill and concurrency.

    A call gives its slot only to one whose κ is ``margin_ms`` earlier, after it has held it for ``quantum`` steps, and
    at most ``most_preemptions`` times. Prefills less urgent than a call in progress share ``prefill_chunk`` tokens a
    step (0: no limit), or as many as take ``prefill_steps`` times a step's fixed part, if those are more.
    ``most_running`` calls run at once (0: as many as the engine has slots). If the most urgent call's κ is at most
    ``hurry`` seconds ahead, others whose κ is still to come start beside it only while a step takes at most
    ``slowdown`` times as long as for that one alone (0: no limit; see :mod:`~agentsys.serving.scheduling.pacing`).
    Without ``preempt`` slots are never taken.
    """

    margin_ms: int = 250
    quantum: int = 4
    most_preemptions: int = 8
    prefill_chunk: int = 256
    prefill_steps: float = 8.0
    most_running: int = 0
    slowdown: float = 0.0
    hurry: float = 30.0
    preempt: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative, got {getattr(self, field.name)}")
        if 0 < self.slowdown < 1:
            raise ValueError(f"slowdown must be 0 or at least 1, got {self.slowdown}")

    def chunk(self, step_time: StepTime | None) -> int:
        """Return the tokens that prefills behind a call in progress share in a step, 0: no limit."""
        return self.prefill_chunk and prefill_chunk(self.prefill_chunk, self.prefill_steps, step_time)

    def as_config(self) -> dict[str, Any]:
        """Return it as what passes through vLLM's configuration."""
        return asdict(self)

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> UrgencyLimits:
        """Return what :meth:`as_config` wrote; what is missing has its default."""
        return UrgencyLimits(**config)


ADAPTIVE: Final = UrgencyLimits(slowdown=1.5)
"""What the engine runs with."""


@dataclass(frozen=True, slots=True)
class Held:
    """A running call: its key, the steps it has held its slot for, how often it was preempted, its blocks, and the
    number of its LoRA adapter, 0: none."""

    key: tuple[int, float]
    steps: int
    preemptions: int
    blocks: int
    adapter: int = 0


class Wanted(NamedTuple):
    """A waiting call: its key, the blocks that it needs and the number of its adapter, 0: none."""

    key: tuple[int, float]
    blocks: int
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What a step has to give: free slots and free blocks; and how many adapters may share it, 0: any number."""

    slots: int
    blocks: int
    adapters: int = 0


def victims(limits: UrgencyLimits, running: Sequence[Held], waiting: Iterable[Wanted], room: Room) -> list[int]:
    """Return the places in ``running`` of the calls that give way, the least urgent first.

    ``waiting`` holds the calls that could start, most urgent first. Each takes what is free; for what it lacks the
    least urgent calls that may give way do so. While the least urgent has its quantum, nobody else gives way in its
    stead. A call that cannot be served takes nothing, and neither do those behind it. One that lacks but a place for
    its adapter does not stop them: for it all calls of another adapter have to give way.
    """
    if not limits.preempt:
        return []
    taking = _Taking(limits, running, room)
    for wanted in waiting:
        if not taking.serve(wanted):
            break
    return taking.chosen


class _Taking:
    """What is free and who still runs, while waiting calls are served one by one."""

    def __init__(self, limits: UrgencyLimits, running: Sequence[Held], room: Room) -> None:
        self.chosen: list[int] = []
        self._limits, self._running = limits, running
        self._slots, self._blocks, self._places = room.slots, room.blocks, room.adapters
        self._staying = set(range(len(running)))
        self._served: set[int] = set()  # their adapters
        self._order = sorted(
            (place for place, held in enumerate(running) if held.preemptions < limits.most_preemptions),
            key=lambda place: running[place].key,
        )

    def serve(self, wanted: Wanted) -> bool:
        """Give a call what it needs; returns whether those behind it may be served."""
        taken = self._for_adapter(wanted)
        if taken is None:
            return True
        order = [place for place in self._order if place not in taken]
        slots = self._slots + len(taken)
        blocks = self._blocks + sum(self._running[place].blocks for place in taken)
        while (slots < 1 or blocks < wanted.blocks) and order and self._gives_way(order[-1], wanted):
            taken.append(order.pop())
            slots += 1
            blocks += self._running[taken[-1]].blocks
        if slots < 1 or blocks < wanted.blocks:
            return False
        self._order, self._slots, self._blocks = order, slots - 1, blocks - wanted.blocks
        self._staying.difference_update(taken)
        self._served.add(wanted.adapter)
        self.chosen += taken
        return True

    def _for_adapter(self, wanted: Wanted) -> list[int] | None:
        """Return who gives way so that the call's adapter has a place; ``None`` if it can have none."""
        at_work = ({self._running[place].adapter for place in self._staying} | self._served) - {0}
        if not self._places or not wanted.adapter or wanted.adapter in at_work or len(at_work) < self._places:
            return []
        groups = [
            [place for place in self._staying if self._running[place].adapter == one] for one in at_work - self._served
        ]
        may = [group for group in groups if all(self._may_give_way(place, wanted) for place in group)]
        latest = max(may, key=lambda group: min(self._running[place].key for place in group), default=None)
        return latest and sorted(latest, key=lambda place: self._running[place].key, reverse=True)

    def _may_give_way(self, place: int, wanted: Wanted) -> bool:
        return place in self._order and self._gives_way(place, wanted)

    def _gives_way(self, place: int, wanted: Wanted) -> bool:
        held = self._running[place]
        return held.steps >= self._limits.quantum and wanted.key[0] + self._limits.margin_ms < held.key[0]


def without_place(running: Sequence[tuple[tuple[int, float], int]], waiting: Sequence[int], places: int) -> list[int]:
    """Return which of the waiting calls may not start, so that no more than ``places`` adapters run.

    ``running`` holds keys and adapters, ``waiting`` adapters, most urgent first. Behind a call that has to wait for a
    place, none starts under the adapter whose calls are the least urgent: its place gets free when these have ended.
    """
    at_work: dict[int, tuple[int, float]] = {}
    for key, adapter in running:
        at_work[adapter] = min(at_work.get(adapter, key), key)
    at_work.pop(0, None)
    latest = max(at_work, key=lambda adapter: at_work[adapter], default=0)
    started, back = set(at_work), list[int]()
    for index, adapter in enumerate(waiting):
        if not adapter or (adapter in started and not (back and adapter == latest)):
            continue
        if adapter not in started and len(started) < places:
            started.add(adapter)
        else:
            back.append(index)
    return back
