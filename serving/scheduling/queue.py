"""The calls that wait for a replica, most urgent first."""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple


class Place(NamedTuple):
    """A call's place in the queue: smallest first; ``number`` keeps equal keys in the order they came."""

    key: float
    number: int
    call_id: str


class WaitingQueue:
    """A priority queue whose keys can change."""

    def __init__(self) -> None:
        self._heap: list[Place] = []
        self._places: dict[str, Place] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._places

    def calls(self) -> list[str]:
        """Return the calls in order of service."""
        return [place.call_id for place in sorted(self._places.values())]

    def push(self, call_id: str, key: float) -> None:
        """Add a call, or change its key."""
        known = self._places.get(call_id)
        self.put_back(Place(key, next(self._arrivals) if known is None else known.number, call_id))

    def put_back(self, place: Place) -> None:
        """Put a call where it was."""
        if self._places.get(place.call_id) == place:
            return
        self._places[place.call_id] = place
        heapq.heappush(self._heap, place)
        if len(self._heap) > 64 + 2 * len(self._places):
            self._heap = list(self._places.values())
            heapq.heapify(self._heap)

    def first(self) -> Place | None:
        """Return the most urgent call's place."""
        while self._heap and self._places.get(self._heap[0].call_id) != self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def remove(self, call_id: str) -> None:
        """Forget a call; unknown ones are ignored."""
        self._places.pop(call_id, None)
