"""What loaded models take of this machine's memory, and which of them should give it back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.keep_warm import KeepWarm
from agentsys.serving.dispatcher.overview import ReplicaView
from agentsys.serving.engine import Engine, EngineStats


@dataclass(frozen=True, slots=True)
class Resident:
    """A model: whether it is loaded, how many calls it is answering, and its replicas.

    ``memory_bytes`` is by how much loading it made this process grow; ``next_use`` is in how many seconds its next call
    is expected, ``None`` if it never had one.
    """

    name: str
    loaded: bool
    open: int
    memory_bytes: int
    next_use: float | None
    stats: EngineStats | None = None
    replicas: tuple[ReplicaView, ...] = field(default=())


class Residence:
    """Keeps the account of one client's models."""

    def __init__(self, budget: int | None) -> None:
        """``budget`` is what loaded models may take, in bytes; ``None`` is no bound."""
        self._budget = budget
        self._warm = KeepWarm()
        self._bytes: dict[str, int] = {}
        self._open: Counter[str] = Counter()

    def begin(self, name: str) -> None:
        """Note a call of a model."""
        self._open[name] += 1
        self._warm.used(name, time.monotonic())

    def end(self, name: str) -> None:
        """Note a call's end."""
        self._open[name] -= 1

    def open(self, name: str) -> int:
        """Return how many calls a model is answering."""
        return self._open[name]

    @contextmanager
    def measured(self, name: str, source: object) -> Iterator[None]:
        """Load a model in this block, and count what the process grows by; an engine given whole stays for good."""
        process = psutil.Process()
        before = process.memory_info().rss
        yield
        grown = 0 if isinstance(source, Engine) else max(process.memory_info().rss - before, 0)
        self._bytes[name] = grown if getattr(source, "in_process", True) else 0

    def unloaded(self, name: str) -> None:
        """Note that a model is not loaded any more."""
        self._bytes.pop(name, None)

    def victims(self, keep: str) -> list[str]:
        """Return the models to unload so that the budget holds; ``keep`` and those that answer stay."""
        if self._budget is None:
            return []
        busy = {keep, *(name for name, count in self._open.items() if count)}
        return self._warm.victims(dict(self._bytes), busy, self._budget, time.monotonic())

    def view(self, name: str, engine: Engine | None) -> Resident:
        """Return how a model stands; ``engine`` is it, if it is loaded."""
        expected = self._warm.next_use(name, time.monotonic())
        return Resident(
            name=name,
            loaded=engine is not None,
            open=self._open[name],
            memory_bytes=self._bytes.get(name, 0),
            next_use=expected if expected < float("inf") else None,
            stats=None if engine is None else engine.stats(),
            replicas=engine.replicas() if isinstance(engine, Dispatcher) else (),
        )
