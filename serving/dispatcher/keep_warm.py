"""Which models to hold in memory: what to unload for others, and what to load shortly before its next call.

Source: Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), which keeps and pre-warms by the idle times seen;
here with the gaps themselves beside their histogram, and memory priced by what it would save in other hands.
Pure: ``now`` is an argument, in seconds of one steady clock.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

_BINS: Final = 24
_KEPT: Final = 16
_FORGET: Final = 0.98
_IMAGINED: Final = 2
"""Gaps added to those seen, so that chance in few of them is not taken for a rule."""

_EARLY: Final = 0.1
"""How much before its time a model may be loaded, as a share of how long it was not called."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes that a loaded model takes of each device's memory, and how many seconds loading it took."""

    memory: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Models that are loaded or being loaded, those of them that must stay, and the bytes that all may take together.

    ``budgets`` are by device; a device without one has no bound.
    """

    held: Mapping[str, Footprint]
    busy: Collection[str]
    budgets: Mapping[str, int]

    @property
    def excess(self) -> dict[str, int]:
        """Bytes beyond the budget, of each device where there are any."""
        taken: Counter[str] = Counter()
        for one in self.held.values():
            taken.update(one.memory)
        beyond = {device: taken[device] - budget for device, budget in self.budgets.items()}
        return {device: over for device, over in beyond.items() if over > 0}

    def share(self, its: Footprint) -> float:
        """Return what part of the budgets a model takes, all devices added up."""
        return sum(its.memory.get(device, 0) / max(budget, 1) for device, budget in self.budgets.items())

    def with_(self, name: str, its: Footprint) -> Memory:
        """Return this with one model more, which must stay."""
        return Memory({**self.held, name: its}, {*self.busy, name}, self.budgets)

    def without(self, names: Collection[str]) -> Memory:
        """Return this with these models unloaded."""
        return Memory({name: its for name, its in self.held.items() if name not in names}, self.busy, self.budgets)


class ArrivalHistory:
    """The gaps between the calls of one model, from a second on: how often each length comes, and the latest of each.

    Lengths are bins of doubling width. What is forgotten with each gap is a share, so that a burst of short gaps does
    not make forget the long ones between bursts.
    """

    def __init__(self) -> None:
        self._weights = [0.0] * _BINS
        self._gaps: list[deque[float]] = [deque(maxlen=_KEPT) for _ in range(_BINS)]
        self._last: float | None = None

    def used(self, now: float) -> None:
        """Note a call."""
        gap = 0.0 if self._last is None else now - self._last
        if gap >= 1.0:
            number = _bin(gap)
            self._weights = [_FORGET * weight for weight in self._weights]
            self._weights[number] += 1.0
            self._gaps[number].append(gap)
        self._last = now

    def quiet(self, now: float) -> float:
        """Return the seconds since the last call; infinite if there was none."""
        return math.inf if self._last is None else max(now - self._last, 0.0)

    def next_use(self, now: float) -> float:
        """Return the seconds until the next call is expected, given that none came since the last.

        Where no gap was ever that long, the quiet is expected to last as long again.
        """
        quiet = self.quiet(now)
        longer = self._longer(quiet)
        if not longer:
            return max(quiet, 1.0)
        weight = sum(each for _, each in longer)
        return sum(gap * each for gap, each in longer) / weight - quiet

    def chance(self, now: float, within: float, *, imagined: float) -> float:
        """Return the probability of a call in the next ``within`` seconds, given that none came since the last.

        It is the share of gaps that end then, of those longer than the quiet and two imagined ones, which end then with
        probability ``imagined``.
        """
        longer = self._longer(self.quiet(now))
        weight = sum(each for _, each in longer)
        ending = sum(each for gap, each in longer if gap <= self.quiet(now) + within)
        seen = len(longer) * (ending / weight) if longer else 0.0
        return (seen + _IMAGINED * imagined) / (len(longer) + _IMAGINED)

    def expects(self, now: float) -> bool:
        """Return whether there was a gap longer than the quiet."""
        return bool(self._longer(self.quiet(now)))

    def _longer(self, quiet: float) -> list[tuple[float, float]]:
        """Return the gaps longer than ``quiet``, with their weights."""
        if math.isinf(quiet):
            return []
        bins = zip(self._gaps[_bin(quiet) :], self._weights[_bin(quiet) :], strict=True)
        return [(gap, weight / len(gaps)) for gaps, weight in bins for gap in gaps if gap > quiet]


class KeepWarm:
    """Chooses what to unload when models take more memory than they may, and what to load before its call comes."""

    def __init__(self) -> None:
        self._history: dict[str, ArrivalHistory] = {}
        self._resting: set[str] = set()

    def used(self, name: str, now: float) -> None:
        """Note a call of a model."""
        self._history.setdefault(name, ArrivalHistory()).used(now)
        self._resting.discard(name)

    def rest(self, name: str) -> None:
        """Load a model by guess no more until its next call: one guess was made, or its owner unloaded it."""
        self._resting.add(name)

    def next_use(self, name: str, now: float) -> float:
        """Return the seconds until a model's next call is expected; infinite if it never had one."""
        return self._history[name].next_use(now) if name in self._history else math.inf

    def foreseen(self, name: str, now: float) -> float | None:
        """Return :meth:`next_use` where the gaps seen say it; ``None`` where the quiet is longer than any of them."""
        known = name in self._history and self._history[name].expects(now)
        return self._history[name].next_use(now) if known else None

    def victims(self, memory: Memory, now: float) -> list[str]:
        """Return what to unload to come down to the budgets.

        First goes what saves its callers the least waiting for each byte and second that it is held: seconds to load
        it, over its share of the budgets and the time to its next call. Models that are busy stay, even if what is left
        is too much.
        """
        idle = [name for name in sorted(memory.held) if name not in memory.busy and memory.share(memory.held[name]) > 0]
        chosen: list[str] = []
        for name in sorted(idle, key=lambda name: self._value(name, memory, now)):
            excess = memory.without(chosen).excess
            if any(memory.held[name].memory.get(device, 0) for device in excess):
                chosen.append(name)
        return chosen

    def guess(self, absent: Mapping[str, Footprint], memory: Memory, now: float) -> str | None:
        """Return which of the ``absent`` models to load now because its call is near, if one is worth it.

        It must fit into the budget beside the models that are busy, and save its callers more waiting than it costs
        those of the models that it takes the place of, each by its probability.
        """
        gains = {name: self._gain(name, absent[name], memory, now) for name in sorted(absent)}
        best = max(gains, key=lambda name: gains[name], default=None)
        return best if best is not None and gains[best] > 0.0 else None

    def expects(self, absent: Collection[str], now: float) -> bool:
        """Return whether a call of one of these models may come to be foreseen without another call before."""
        return any(name in self._history and self._history[name].expects(now) for name in set(absent) - self._resting)

    def _gain(self, name: str, its: Footprint, memory: Memory, now: float) -> float:
        """Return the seconds of waiting that loading a model now saves, by expectation, less those that it costs."""
        history = self._history.get(name)
        if history is None or name in self._resting:
            return -math.inf
        window = 2 * its.seconds + 1.0 + _EARLY * history.quiet(now)
        right = history.chance(now, window, imagined=0.0)
        full = memory.with_(name, its)
        victims = self.victims(full, now) if right > 0.5 else []
        if full.without(victims).excess:
            return -math.inf
        lost = (1.0 - right) * its.seconds
        for victim in victims:
            # Doubt is for what is there: the imagined gaps of a loaded model end at once, those of a guess never.
            needed = self._history[victim].chance(now, window, imagined=1.0) if victim in self._history else 0.0
            lost += memory.held[victim].seconds * (1.0 - right * (1.0 - needed))
        return right * its.seconds - lost

    def _value(self, name: str, memory: Memory, now: float) -> tuple[float, float]:
        its, expected = memory.held[name], max(self.next_use(name, now), 1e-3)
        return its.seconds / (memory.share(its) * expected), -expected


def _bin(gap: float) -> int:
    return min(max(math.floor(math.log2(gap)), 0), _BINS - 1) if gap > 1.0 else 0
