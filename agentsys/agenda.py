"""The agenda: which of the waiting agents acts next when not all can act at once.

The rating of an activation is urgency × value ÷ cost, as in the agendas of Hearsay-II and BB1.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def rating(slack: float, value: float, cost: float) -> float:
    """Return the rating of an activation. ``slack`` is the seconds until its latest start; overdue counts as 0."""
    return value / cost / (1.0 + max(0.0, slack))


class Agenda:
    """Lets at most ``capacity`` agents act at once; of those waiting, the highest rated goes next, then the oldest."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"the agenda needs room for at least one agent, got {capacity}")
        self._free = capacity
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def turn(self, rated: float) -> AsyncIterator[None]:
        """Hold a place while acting."""
        await self._acquire(rated)
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def pause(self, rated: float) -> AsyncIterator[None]:
        """Give the place back while waiting for others, so that agents that ask agents cannot block each other."""
        self._release()
        try:
            try:
                yield
            except Exception:
                await self._acquire(rated)
                raise
            await self._acquire(rated)
        except asyncio.CancelledError:
            # Who is interrupted waits for no place: until it gives back the one that it had, one more acts.
            self._free -= 1
            raise

    async def _acquire(self, rated: float) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-rated, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting and self._free >= 0:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
