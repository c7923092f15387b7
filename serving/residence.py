"""What loaded models take of this machine's memory, which should give it back, and which should be loaded again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import psutil

from agentsys.errors import ServingError
from agentsys.serving.device_memory import GPU, HOST, DeviceBudgets
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.keep_warm import Footprint, KeepWarm, Memory
from agentsys.serving.dispatcher.overview import ReplicaView
from agentsys.serving.engine import Engine, EngineStats

_NOTHING = Footprint({}, 0.0)


class DeviceFullError(ServingError):
    """A model would take more of a GPU's memory than is left beside models that cannot be unloaded."""

    code = "AGS-0457"
    remedy = (
        "Wait until the others have answered, unload one (`agentsys models unload`), lower a model's kv_cache_mib, or "
        "raise model.gpu_memory_mib."
    )


@dataclass(frozen=True, slots=True)
class Resident:
    """A model: whether it is in memory, how many calls it is answering, and its replicas.

    ``state`` "loaded ahead" is of a model that was loaded because a call is expected, and was not called since.
    ``memory_bytes`` is by how much loading it made this process grow, at most, with what its engine's own processes
    take; ``gpu_bytes`` what it was given of a GPU. ``next_use`` is in how many seconds its next call is expected,
    ``None`` where no gap between its calls was as long as it is quiet now. ``loads_ahead`` of its ``loads`` did not
    wait for a call; the last took ``load_seconds``, ``None`` before the first. An adapter is in the memory of
    ``adapter_of``.
    """

    name: str
    loaded: bool
    state: Literal["loaded", "loaded ahead", "loading", "not loaded"]
    open: int
    memory_bytes: int
    next_use: float | None
    gpu_bytes: int = 0
    loads: int = 0
    loads_ahead: int = 0
    load_seconds: float | None = None
    stats: EngineStats | None = None
    replicas: tuple[ReplicaView, ...] = field(default=())
    adapter_of: str | None = None


class Residence:
    """Keeps the account of one client's models."""

    def __init__(self, budgets: DeviceBudgets | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """``budgets`` are what loaded models may take."""
        self._budgets = DeviceBudgets() if budgets is None else budgets
        self._clock = clock
        self._warm = KeepWarm()
        self._known: dict[str, Footprint] = {}
        self._held: dict[str, Footprint] = {}
        self._coming: set[str] = set()
        self._ahead: set[str] = set()
        self._open: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()
        self._loads_ahead: Counter[str] = Counter()

    def begin(self, name: str) -> None:
        """Note a call of a model."""
        self._open[name] += 1
        self._ahead.discard(name)
        self._warm.used(name, self._clock())

    def end(self, name: str) -> None:
        """Note a call's end."""
        self._open[name] -= 1

    def open(self, name: str) -> int:
        """Return how many calls a model is answering."""
        return self._open[name]

    def coming(self, name: str) -> None:
        """Note that a model is being loaded, until :meth:`came`: it will take what it took the last time."""
        self._coming.add(name)
        self._held[name] = self._known.get(name, _NOTHING)

    def admit(self, name: str, claims: Mapping[str, int], *, unloading: bool = True) -> list[str]:
        """Reserve what a model that is being loaded will take by device; returns what to unload for it first.

        Raises :class:`DeviceFullError` where a GPU does not hold it, even after that or, without ``unloading``, beside
        what is there. This machine's memory may be exceeded for as long as models are busy; a GPU's cannot.
        """
        known, before = self._known.get(name, _NOTHING), self._held.get(name)
        budgets = self._budgets.of(claims)  # what is free is asked for before the first model is there
        self._held[name] = Footprint({**known.memory, **claims}, known.seconds)
        victims = self.victims(name)
        memory = self._memory().without(victims if unloading else ())
        for device in memory.excess.keys() & claims.keys() - {HOST}:
            if before is None:
                del self._held[name]
            else:
                self._held[name] = before
            others = {one: its.memory.get(device, 0) for one, its in sorted(memory.held.items()) if one != name}
            holding = ", ".join(f"{one} {_mib(taken)}" for one, taken in others.items() if taken) or "nothing"
            raise DeviceFullError(
                f"{name} takes {_mib(claims[device])} of the memory of {device}, where models may have "
                f"{_mib(budgets[device])}; what cannot be unloaded: {holding}."
            )
        return victims

    def came(self, name: str, *, loaded: bool) -> None:
        """Note that a model is not being loaded any more: it is ``loaded``, or that failed."""
        self._coming.discard(name)
        if not loaded:
            self.unloaded(name)

    @contextmanager
    def measured(self, name: str, source: object, claims: Mapping[str, int]) -> Iterator[None]:
        """Load a model in this block, and count what the process grows by beside its ``claims``; an engine given whole
        stays for good. Raises :class:`DeviceFullError`.
        """
        if name not in self._coming:
            self.admit(name, claims, unloading=False)
        process = psutil.Process()
        before, began = process.memory_info().rss, self._clock()
        try:
            yield
        except BaseException:
            self.unloaded(name)
            raise
        counted = not isinstance(source, Engine) and getattr(source, "in_process", True)
        grown = process.memory_info().rss - before if counted else 0
        # Memory that the process kept from a model that it unloaded is no growth when the model comes back.
        most = max(grown + claims.get(HOST, 0), self._known.get(name, _NOTHING).memory.get(HOST, 0))
        self._held[name] = self._known[name] = Footprint({**claims, HOST: most}, self._clock() - began)
        self._loads[name] += 1

    def unloaded(self, name: str) -> None:
        """Note that a model is not loaded any more."""
        self._held.pop(name, None)
        self._ahead.discard(name)

    def rest(self, name: str) -> None:
        """Load a model not ahead of its next call: its owner unloaded it."""
        self._warm.rest(name)

    def victims(self, keep: str) -> list[str]:
        """Return the models to unload so that budgets hold; ``keep`` and those that answer or are loading stay."""
        memory = self._memory()
        return self._warm.victims(memory.with_(keep, memory.held.get(keep, _NOTHING)), self._clock())

    def load_ahead(self, absent: Collection[str]) -> str | None:
        """Return which of these models to load now for a call that is near, and note that it was loaded for that."""
        memory = self._memory()
        name = self._warm.guess(self._reloadable(absent), memory, self._clock()) if memory.budgets else None
        if name is not None:
            self._warm.rest(name)
            self._ahead.add(name)
            self._loads_ahead[name] += 1
        return name

    def expects(self, absent: Collection[str]) -> bool:
        """Return whether a call of one of these models may come to be foreseen, if none comes before."""
        return self._budgets.bounded and self._warm.expects(self._reloadable(absent), self._clock())

    def view(self, name: str, engine: Engine | None) -> Resident:
        """Return how a model stands; ``engine`` is it, if it is loaded."""
        known = self._known.get(name)
        held = self._held.get(name, _NOTHING).memory
        return Resident(
            name=name,
            loaded=engine is not None,
            state=self._state(name, engine is not None),
            open=self._open[name],
            memory_bytes=held.get(HOST, 0),
            next_use=self._warm.foreseen(name, self._clock()),
            gpu_bytes=held.get(GPU, 0),
            loads=self._loads[name],
            loads_ahead=self._loads_ahead[name],
            load_seconds=None if known is None else known.seconds,
            stats=None if engine is None else engine.stats(),
            replicas=engine.replicas() if isinstance(engine, Dispatcher) else (),
        )

    def _state(self, name: str, loaded: bool) -> Literal["loaded", "loaded ahead", "loading", "not loaded"]:
        if loaded:
            return "loaded ahead" if name in self._ahead else "loaded"
        return "loading" if name in self._coming else "not loaded"

    def _memory(self) -> Memory:
        """Return what is held now."""
        answering = {name for name, count in self._open.items() if count}
        return Memory(dict(self._held), answering | self._coming, self._budgets.of(()))

    def _reloadable(self, absent: Collection[str]) -> dict[str, Footprint]:
        """Return which of these models were loaded before, and take memory."""
        known = {name: self._known[name] for name in absent if name in self._known}
        bounded = self._budgets.of(()).keys()
        taking = {name: its for name, its in known.items() if any(its.memory.get(device) for device in bounded)}
        return {name: its for name, its in taking.items() if name not in self._coming}


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
