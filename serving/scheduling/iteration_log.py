"""The newest steps of an engine, for whoever learns from them what a step costs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from agentsys.serving.scheduling.step_time import Iteration

KEPT_ITERATIONS: Final = 2000


class IterationLog:
    """Numbers an engine's steps from 1 and keeps the newest. One thread may add while others read."""

    def __init__(self, kept: int = KEPT_ITERATIONS) -> None:
        self._lock = threading.Lock()
        self._newest: deque[Iteration] = deque(maxlen=kept)
        self._last = 0

    def add(self, iteration: Iteration) -> None:
        """Note a step."""
        with self._lock:
            self._newest.append(iteration)
            self._last += 1

    def since(self, after: int) -> tuple[int, Sequence[Iteration]]:
        """Return the number of the last step, and those later than number ``after`` that are still kept."""
        with self._lock:
            count = min(max(self._last - after, 0), len(self._newest))
            return self._last, tuple(islice(self._newest, len(self._newest) - count, None))
