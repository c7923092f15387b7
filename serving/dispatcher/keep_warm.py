"""Which loaded models to keep in memory: those that are predicted to be needed soonest.

Source: the idle-time histograms of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), with what is forgotten
slowly as traffic changes. Pure: ``now`` is an argument, in seconds of one steady clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

_BINS: Final = 24
_FORGET: Final = 0.98


class ArrivalHistory:
    """The gaps between the calls of one model, counted in bins of doubling width, from a second on."""

    def __init__(self) -> None:
        self._gaps = [0.0] * _BINS
        self._last: float | None = None

    def used(self, now: float) -> None:
        """Note a call."""
        if self._last is not None:
            self._gaps = [_FORGET * count for count in self._gaps]
            self._gaps[_bin(now - self._last)] += 1.0
        self._last = now

    def next_use(self, now: float) -> float:
        """Return the seconds until the next call is expected, given that none came since the last.

        Where no gap was ever that long, the quiet is expected to last as long again.
        """
        if self._last is None:
            return math.inf
        quiet = max(now - self._last, 0.0)
        first = _bin(quiet)
        weight = sum(self._gaps[first:])
        if weight <= 0.0:
            return max(quiet, 1.0)
        expected = sum(count * 1.5 * 2.0**number for number, count in enumerate(self._gaps[first:], first)) / weight
        return max(expected - quiet, 0.0)


class KeepWarm:
    """Chooses what to unload when loaded models take more memory than they may."""

    def __init__(self) -> None:
        self._history: dict[str, ArrivalHistory] = {}

    def used(self, name: str, now: float) -> None:
        """Note a call of a model."""
        self._history.setdefault(name, ArrivalHistory()).used(now)

    def next_use(self, name: str, now: float) -> float:
        """Return the seconds until a model's next call is expected; infinite if it never had one."""
        return self._history[name].next_use(now) if name in self._history else math.inf

    def victims(self, loaded: Mapping[str, int], busy: Collection[str], budget: int, now: float) -> list[str]:
        """Return what to unload of ``loaded`` (bytes by name) to come down to ``budget``: needed latest first.

        Models that are ``busy`` stay, even if what is left is too much.
        """
        excess = sum(loaded.values()) - budget
        idle = sorted((name for name in loaded if name not in busy and loaded[name] > 0), key=str)
        chosen: list[str] = []
        for name in sorted(idle, key=lambda name: self.next_use(name, now), reverse=True):
            if excess <= 0:
                break
            chosen.append(name)
            excess -= loaded[name]
        return chosen


def _bin(gap: float) -> int:
    return min(max(math.floor(math.log2(gap)), 0), _BINS - 1) if gap > 1.0 else 0
