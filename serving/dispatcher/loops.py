"""Runs the dispatcher's one function on the event loops that have calls, and on no thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TICK: Final = 0.25
"""Seconds between two looks at replicas while there are calls."""


class LoopWakes:
    """Runs ``act`` on a loop soon after something happened there, and again when ``act`` says, while calls are open."""

    def __init__(self, act: Callable[[], float | None]) -> None:
        """``act`` returns the seconds after which it is to run again, ``None`` if that does not matter."""
        self._act = act
        self._open: dict[asyncio.AbstractEventLoop, int] = {}
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}
        self._due: set[asyncio.AbstractEventLoop] = set()

    def begin(self) -> None:
        """Note a call on the running loop."""
        loop = asyncio.get_running_loop()
        self._open[loop] = self._open.get(loop, 0) + 1

    def end(self) -> None:
        """Note the end of a call on the running loop; with its last one the dispatcher lets go of the loop."""
        loop = asyncio.get_running_loop()
        self._open[loop] -= 1
        if not self._open[loop]:
            del self._open[loop]
            timer = self._timers.pop(loop, None)
            if timer is not None:
                timer.cancel()

    def soon(self) -> None:
        """Act once all that happens in this turn of the running loop has happened: many events, one decision."""
        loop = asyncio.get_running_loop()
        if loop not in self._due:
            self._due.add(loop)
            loop.call_soon(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due.discard(loop)
        timer = self._timers.pop(loop, None)
        if timer is not None:
            timer.cancel()
        delay = TICK
        try:
            delay = min(self._act() or TICK, TICK)
        finally:
            if loop in self._open:
                self._timers[loop] = loop.call_later(max(delay, 0.005), self._run, loop)
