"""The calls that wait for a replica, most urgent first."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from sortedcontainers import SortedList


class Place(NamedTuple):
    """A call's place in the queue: smallest first; ``number`` keeps equal keys in the order they came."""

    key: float
    number: int
    call_id: str


class WaitingQueue:
    """A sorted list of calls whose keys can change."""

    def __init__(self) -> None:
        self._sorted: SortedList[Place] = SortedList()
        self._places: dict[str, Place] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._places

    def __getitem__(self, index: int) -> Place:
        """Return the place of the call that ``index`` others go before."""
        place: Place = self._sorted[index]
        return place

    def calls(self) -> list[str]:
        """Return the calls in order of service."""
        return [place.call_id for place in self._sorted]

    def push(self, call_id: str, key: float) -> None:
        """Add a call, or change its key."""
        known = self._places.get(call_id)
        if known is not None:
            self._sorted.remove(known)
        place = Place(key, next(self._arrivals) if known is None else known.number, call_id)
        self._places[call_id] = place
        self._sorted.add(place)

    def remove(self, call_id: str) -> None:
        """Forget a call; unknown ones are ignored."""
        place = self._places.pop(call_id, None)
        if place is not None:
            self._sorted.remove(place)
