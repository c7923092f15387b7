"""Whether a replica can be trusted with calls. Pure: ``now`` is an argument, in seconds of one steady clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """When a replica counts as broken, and when it is asked again. All times are seconds.

    A replica is broken after ``failures`` in a row, and asked again after ``first_pause``, which doubles up to
    ``longest_pause``, each time by up to ``jitter`` of it longer or shorter, so that many dispatchers do not ask at
    once. One that is busy and silent for ``hang_factor`` times what its work should take, at least ``shortest_silence``
    and at most ``longest_silence``, hangs; until its first sign of life, and where nobody could take its calls over,
    it has ``longest_silence``. A call is tried ``attempts`` times.
    """

    failures: int = 3
    first_pause: float = 0.5
    longest_pause: float = 4.0
    jitter: float = 0.25
    hang_factor: float = 8.0
    shortest_silence: float = 3.0
    longest_silence: float = 120.0
    attempts: int = 3


class Breaker(StrEnum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Keeps calls from a replica that fails: closed → open for a pause → half-open for one probe → closed or open.

    Source: M. Nygard, Release It! (2007), chapter 5.
    """

    def __init__(self, limits: HealthLimits, draw: Callable[[], float] = random.random) -> None:
        """``draw`` returns numbers in [0, 1), for the jitter."""
        self._limits = limits
        self._draw = draw
        self._in_row = 0
        self._opened = 0
        self.state = Breaker.CLOSED
        self.probe_at = 0.0

    def succeeded(self) -> bool:
        """Note an answer; returns whether it closed the breaker."""
        closed = self.state is not Breaker.CLOSED
        self._in_row = self._opened = 0
        self.state = Breaker.CLOSED
        return closed

    def failed(self, now: float, *, fatal: bool = False, pause: float = 0.0) -> bool:
        """Note a failure, after which a ``fatal`` one or the last of a row opens the breaker; returns whether it did.

        ``pause`` is the least that the replica itself asked for.
        """
        self._in_row += 1
        if self.state is Breaker.OPEN or (
            self.state is Breaker.CLOSED and not fatal and self._in_row < self._limits.failures
        ):
            return False
        was_closed = self.state is Breaker.CLOSED
        wait = min(self._limits.first_pause * 2.0**self._opened, self._limits.longest_pause)
        self._opened += 1
        self.probe_at = now + max(wait * (1 + self._limits.jitter * (2 * self._draw() - 1)), pause)
        self.state = Breaker.OPEN
        return was_closed

    @property
    def probe_seconds(self) -> float:
        """How long a probe may take: longer each time, since a server may be loading its model."""
        return min(self._limits.shortest_silence * 2.0 ** max(self._opened - 1, 0), self._limits.longest_silence)

    def begin_probe(self, now: float) -> bool:
        """Return whether the replica is to be asked now; the answer is told to ``succeeded`` or ``failed``."""
        if self.state is not Breaker.OPEN or now < self.probe_at:
            return False
        self.state = Breaker.HALF_OPEN
        return True


class Silence:
    """Notices that a busy replica shows no sign of life: no token, no step, for longer than its work should take."""

    def __init__(self, limits: HealthLimits) -> None:
        self._limits = limits
        self._last: float | None = None
        self._longest_gap = 0.0
        self._alive = False

    def busy(self, now: float) -> None:
        """Note that the replica got work."""
        if self._last is None:
            self._last = now

    def idle(self) -> None:
        """Note that it has none: silence means nothing now."""
        self._last = None

    def sign(self, now: float) -> None:
        """Note a token or a step. The longest gap between two is remembered, and slowly forgotten."""
        if self._last is not None and self._alive:
            self._longest_gap = max(now - self._last, 0.98 * self._longest_gap)
        self._alive = True
        if self._last is not None:
            self._last = now

    def reset(self) -> None:
        """Forget that it ever lived: it may have been restarted, and have to load its model."""
        self._last, self._alive = None, False

    def bound(self, expected: float, *, alone: bool) -> float:
        """Return the silence that is borne; ``expected`` is what its prompts take to compute."""
        if alone or not self._alive:
            return self._limits.longest_silence
        usual = self._limits.hang_factor * max(expected, self._longest_gap)
        return min(max(usual, self._limits.shortest_silence), self._limits.longest_silence)

    def hangs(self, now: float, expected: float, *, alone: bool) -> bool:
        """Return whether the replica has been silent for too long."""
        return self._last is not None and now - self._last > self.bound(expected, alone=alone)
