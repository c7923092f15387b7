"""Who gives way to whom: the decisions of the scheduler inside vLLM, in pure code.

Keys are κ in integer milliseconds of unix time, as vLLM's ``priority`` carries them; the smaller is the more urgent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from agentsys.serving.scheduling.step_time import StepTime, prefill_chunk


@dataclass(frozen=True, slots=True)
class UrgencyLimits:
    """What bounds preemption, prefill and concurrency.

    A call gives its slot only to one whose κ is ``margin_ms`` earlier, after it has held it for ``quantum`` steps, and
    at most ``most_preemptions`` times. Prefills less urgent than a call in progress share ``prefill_chunk`` tokens a
    step (0: no limit), or as many as take ``prefill_steps`` times a step's fixed part, if those are more.
    ``most_running`` calls run at once (0: as many as the engine has slots). Without ``preempt`` slots are never taken.
    """

    margin_ms: int = 250
    quantum: int = 4
    most_preemptions: int = 8
    prefill_chunk: int = 256
    prefill_steps: float = 8.0
    most_running: int = 0
    preempt: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative, got {getattr(self, field.name)}")

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


@dataclass(frozen=True, slots=True)
class Held:
    """A running call: its key, the steps it has held its slot for, how often it was preempted, its blocks."""

    key: tuple[int, float]
    steps: int
    preemptions: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a step has to give: free slots and free blocks."""

    slots: int
    blocks: int


def victims(
    limits: UrgencyLimits, running: Sequence[Held], waiting: Iterable[tuple[tuple[int, float], int]], room: Room
) -> list[int]:
    """Return the places in ``running`` of the calls that give way, the least urgent first.

    ``waiting`` holds keys and blocks needed of the calls that could start, most urgent first. Each takes what is free;
    for what it lacks the least urgent calls that may give way do so. While the least urgent has its quantum, nobody
    else gives way in its stead. A call that cannot be served takes nothing, and neither do those behind it.
    """
    if not limits.preempt:
        return []
    order = sorted(
        (place for place, held in enumerate(running) if held.preemptions < limits.most_preemptions),
        key=lambda place: running[place].key,
    )
    chosen: list[int] = []
    slots, blocks = room.slots, room.blocks
    for key, needed in waiting:
        taken: list[int] = []
        while (slots < 1 or blocks < needed) and order and _gives_way(limits, running[order[-1]], key):
            taken.append(order.pop())
            slots += 1
            blocks += running[taken[-1]].blocks
        if slots < 1 or blocks < needed:
            break
        chosen += taken
        slots -= 1
        blocks -= needed
    return chosen


def _gives_way(limits: UrgencyLimits, held: Held, key: tuple[int, float]) -> bool:
    return held.steps >= limits.quantum and key[0] + limits.margin_ms < held.key[0]
