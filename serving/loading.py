"""Named engines in memory: loaded by a call or shortly before one is expected, unloaded when others need the room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from agentsys.errors import ServingError
from agentsys.serving.device_memory import memory_claims, release_cached
from agentsys.serving.engine import Engine, close_all
from agentsys.serving.engine_errors import EngineClosedError
from agentsys.serving.residence import Residence, Resident

EngineFactory = Callable[[], Engine]

_LOOK_SECONDS = 1.0
"""How often it is asked whether a call is near."""

_ELSEWHERE_SECONDS = 0.05
"""How often a call looks whether a model is there that is being loaded on another event loop, whose tasks it cannot
await."""


class UnknownEngineError(ServingError):
    """No engine has the name that a call asked for."""

    code = "AGS-0416"
    remedy = "Name one of the configured models, or leave the name out for the default."


class ModelBusyError(ServingError):
    """A model cannot be unloaded now."""

    code = "AGS-0468"
    remedy = "Wait until it answers nobody, then try again."


class LoadedModels:
    """The engines of one client, by name. Belongs to one event loop; :meth:`engine`, :meth:`in_use`, :meth:`load` may
    be called elsewhere.
    """

    def __init__(
        self, sources: Mapping[str, Engine | EngineFactory], residence: Residence, others: Collection[str] = ()
    ) -> None:
        """``others`` are names that callers may use too, which errors tell.

        ``failed`` has the models that could not be loaded, or failed, and when, in seconds of ``time.monotonic``.
        """
        self.engines: dict[str, Engine] = {}
        self.failed: dict[str, float] = {}
        self._sources = dict(sources)
        self._others = others
        self._loading: dict[str, asyncio.Task[Engine]] = {}
        self._load_lock = threading.Lock()
        self._residence = residence
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def source(self, name: str) -> Engine | EngineFactory:
        """Return an engine, or what loads it. Raises :class:`UnknownEngineError`."""
        try:
            return self._sources[name]
        except KeyError:
            known = ", ".join(sorted({*self._sources, *self._others})) or "none"
            raise UnknownEngineError(f"no model is configured as {name!r}; configured: {known}.") from None

    async def engine(self, name: str) -> Engine:
        """Return an engine, loading it in a thread if need be; a failed load is tried again by the next call."""
        self.source(name)
        while name not in self.engines:
            loading = self._bring(name)
            if loading.get_loop() is asyncio.get_running_loop():
                # A caller that gives up must not take the load away from the others who wait for it.
                return await asyncio.shield(loading)
            await asyncio.sleep(_ELSEWHERE_SECONDS)
        return self.engines[name]

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """Keep a model from being unloaded: from before it is loaded to the end of its answer."""
        self.source(name)
        self._residence.begin(name)
        try:
            yield
        finally:
            self._residence.end(name)
            self._look_later()

    async def unload(self, name: str) -> bool:
        """Free an idle model's memory until its next call; returns whether it was loaded.

        Raises :class:`UnknownEngineError`, and :class:`ModelBusyError` while it answers.
        """
        if isinstance(self.source(name), Engine):
            raise ModelBusyError(f"{name!r} was given as an engine, and nothing could load it again.")
        if self._residence.open(name) or name in self._loading:
            raise ModelBusyError(f"{name!r} is answering {self._residence.open(name)} calls, or being loaded.")
        self._residence.rest(name)
        loaded = name in self.engines
        await self._unload([name] if loaded else [])
        return loaded

    def snapshot(self) -> dict[str, Engine]:
        """Return the engines that are loaded; a thread may add one while they are gone through."""
        return dict(self.engines)

    def resident(self, name: str) -> Resident:
        """Return how a model stands to this machine's memory."""
        return self._residence.view(name, self.engines.get(name))

    def load(self, name: str) -> Engine:
        """Return an engine, loading it if need be, which blocks."""
        # One at a time: a call that blocks and one that awaits must not both load the same weights.
        with self._load_lock:
            if name not in self.engines:
                source = self.source(name)
                try:
                    with self._residence.measured(name, source, memory_claims(source)):
                        self.engines[name] = source if isinstance(source, Engine) else source()
                except Exception:
                    self.note_failed(name)
                    raise
                self.failed.pop(name, None)
            return self.engines[name]

    def note_failed(self, name: str) -> None:
        """Note that a model could not be loaded now, or failed."""
        self.failed[name] = time.monotonic()

    async def close(self) -> None:
        """Close every engine, also those still loading."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        engines = {id(engine): engine for engine in self.engines.values()}
        self.engines.clear()
        await close_all(engines.values())

    def _bring(self, name: str) -> asyncio.Task[Engine]:
        if self._closed:
            raise EngineClosedError(
                f"{name} is not loaded, and its client is closed.", remedy="Create the client again."
            )
        loading = self._loading.get(name)
        if loading is None or loading.get_loop().is_closed():
            self._residence.coming(name)
            loading = self._loading[name] = asyncio.create_task(self._load_with_room(name))
            loading.add_done_callback(partial(self._note_loaded, name))
        return loading

    async def _load_with_room(self, name: str) -> Engine:
        claims = await asyncio.to_thread(self._claims, name)
        await self._unload(self._residence.admit(name, claims))
        engine = await asyncio.to_thread(self.load, name)
        await self._unload(self._residence.victims(keep=name))  # it may have taken more than was known
        return engine

    def _claims(self, name: str) -> Mapping[str, int]:
        try:
            return memory_claims(self._sources[name])
        except Exception:
            self.note_failed(name)
            raise

    async def _unload(self, names: Sequence[str]) -> None:
        # All are taken before the first is closed: while it closes, a call may come for another.
        for engine in [self._take(name) for name in names]:
            if engine is not None:
                await engine.close()
        if names:
            await asyncio.to_thread(release_cached)

    def _take(self, name: str) -> Engine | None:
        engine = self.engines.pop(name, None)
        if engine is not None:
            self._residence.unloaded(name)
        return engine

    def _note_loaded(self, name: str, task: asyncio.Task[Engine]) -> None:
        self._loading.pop(name, None)
        self._residence.came(name, loaded=name in self.engines)
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not report it when every caller has given up

    def _look_later(self) -> None:
        """Look after a while which call is near, as long as one may come to be."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if not self._closed and self._residence.expects(self._absent()):
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        name = self._residence.load_ahead(self._absent())
        if name is not None:
            self._bring(name)
        self._look_later()

    def _absent(self) -> list[str]:
        return [name for name in self._sources if name not in self.engines and name not in self._loading]
