"""Requests on their way into the engine: the room that they take in its queue, and what is asked of them meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentsys.serving.engine_errors import QueueFullError
from agentsys.serving.meanwhile import Meanwhile, OnTheWay


class Arrivals:
    """Requests that were let in and that the engine's thread has not taken up yet. Thread-safe.

    ``read`` has those whose prompts are being read.
    """

    def __init__(self, name: str, most_waiting: int, waiting: Callable[[], int]) -> None:
        """``waiting`` tells how many more wait in the engine of ``name``, which holds ``most_waiting``."""
        self.read = OnTheWay()
        self._name = name
        self._most_waiting = most_waiting
        self._waiting = waiting
        self._lock = threading.Lock()
        self._coming = 0

    @contextmanager
    def reading(self, request_id: str, prompts: int = 1) -> Iterator[Meanwhile]:
        """Let a request in and read its prompts in this block, at whose end the engine's thread knows of each; after
        an error it is to know of none. Raises :class:`QueueFullError`."""
        self._let_in(prompts)
        with self.read.coming(request_id) as meanwhile:
            try:
                yield meanwhile
            except BaseException:
                self.taken_up(prompts)
                raise

    def taken_up(self, prompts: int = 1) -> None:
        """Note that so many now count among those that wait in the engine, or nowhere."""
        with self._lock:
            self._coming -= prompts

    def _let_in(self, prompts: int) -> None:
        with self._lock:
            # In this order, one that is taken up just now counts twice rather than not at all.
            waiting = self._coming + self._waiting()
            if waiting + prompts > self._most_waiting:
                raise QueueFullError(
                    f"{waiting} requests wait in the engine of {self._name}, which holds {self._most_waiting}."
                )
            self._coming += prompts
