"""The life of a server: it serves, or drains (finishes what it has begun and takes nothing more), and then ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentsys.serving.server.errors import DrainingError


class Lifecycle:
    """Knows what is under way, and for how long it may go on. Belongs to one event loop."""

    def __init__(self, drain_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._ends: float | None = None
        self._aborts: dict[int, Callable[[], object]] = {}

    @property
    def under_way(self) -> int:
        """Requests whose answers are not whole yet."""
        return len(self._aborts)

    @property
    def draining(self) -> bool:
        """Whether nothing is taken any more."""
        return self._ends is not None

    @property
    def seconds_left(self) -> float:
        """How long a draining server waits at most for what is under way."""
        return self._drain_seconds if self._ends is None else max(0.0, self._ends - self._clock())

    @property
    def ended(self) -> bool:
        """Whether the server has drained: nothing is under way, or it has waited long enough."""
        return self.draining and (not self._aborts or self.seconds_left == 0)

    @contextmanager
    def request(self, abort: Callable[[], object]) -> Iterator[None]:
        """Take a request until its answer is whole; raises :class:`DrainingError`. ``abort`` ends it early."""
        if self.draining:
            raise DrainingError(
                f"the server is ending and finishes the {self.under_way} requests that it has.",
                retry_after=self.seconds_left,
            )
        self._aborts[id(abort)] = abort
        try:
            yield
        finally:
            del self._aborts[id(abort)]

    def drain(self) -> None:
        """Take nothing more from now on."""
        if self._ends is None:
            self._ends = self._clock() + self._drain_seconds

    def abort_all(self) -> None:
        """End what is still under way; each answer ends with an error that says so."""
        for abort in list(self._aborts.values()):
            abort()
