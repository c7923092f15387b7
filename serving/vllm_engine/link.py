"""The line from the engine to our scheduler, which runs in vLLM's own process: new κ out, steps and phases back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from agentsys.serving.scheduling.iteration_log import IterationLog
from agentsys.serving.scheduling.step_time import Iteration

Phase = Literal["prefill", "decode", "paused"]

_POLL_SECONDS: Final = 0.2
_RETRY_SECONDS: Final = 0.02
_RETRIES: Final = 50


class CoreClient(Protocol):
    """What is used of vLLM's client of its core process."""

    async def call_utility_async(self, method: str, *arguments: Any) -> Any: ...


class SchedulerLink:
    """Runs on the engine's loop. What it shows is at most a fifth of a second old, and read from any thread."""

    def __init__(self, client: CoreClient, awaited: Mapping[str, object]) -> None:
        """``awaited`` has the ids of the requests whose answers are awaited; the engine keeps it true."""
        self._client = client
        self._awaited = awaited
        self._keys: dict[str, int] = {}
        self._sender: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.iterations = IterationLog()
        self.steps = 0
        self.used_blocks = 0
        self.phases: Mapping[str, Phase] = {}

    def rekey(self, name: str, priority: int) -> None:
        """Send a request's new key; the newest wins if the one before is still on its way."""
        self._keys[name] = priority
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())

    def watch(self) -> None:
        """Keep what is shown fresh until no answer is awaited any more."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def limit_running(self, most: int) -> None:
        """Let at most ``most`` requests run at once; 0: as many as the engine has slots."""
        await self._client.call_utility_async("agentsys_limit_running", most)

    async def close(self) -> None:
        """Stop watching and sending."""
        for task in (self._sender, self._watcher):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):  # what it died of, its answers were told
                    await task

    async def _send(self) -> None:
        tries = 0
        while self._keys:
            keys, self._keys = self._keys, {}
            unknown = await self._client.call_utility_async("agentsys_rekey", list(keys.items()))
            # A request that was just handed over may not have reached the scheduler yet.
            missed = {name: keys[name] for name in unknown if name in self._awaited}
            tries = tries + 1 if missed else 0
            if tries == _RETRIES:
                tries, missed = 0, {}
            if missed:
                self._keys = missed | self._keys
                await asyncio.sleep(_RETRY_SECONDS)

    async def _watch(self) -> None:
        while True:
            idle = not self._awaited
            steps, fresh, phases, used = await self._client.call_utility_async("agentsys_report", self.steps)
            for step in fresh:
                self.iterations.add(Iteration(*step))
            self.steps, self.phases, self.used_blocks = steps, phases, used
            # One may have come while the report was on its way, whose `watch` found this task at work.
            if idle and not self._awaited:
                return
            await asyncio.sleep(_POLL_SECONDS)
