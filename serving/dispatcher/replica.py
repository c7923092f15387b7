"""One engine of a model: what makes it, who learns what is sent to it, and how it does."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from agentsys.blackboard.labels import NOBODY, PUBLIC, Label, Readers
from agentsys.errors import AgentsysError, ServingError
from agentsys.serving.dispatcher.errors import DispatcherClosedError, ReplicaFailedError, ReplicaHangsError
from agentsys.serving.dispatcher.health import Breaker, CircuitBreaker, HealthLimits, Silence
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import (
    EngineClosedError,
    EngineFailedError,
    QueueFullError,
    RequestFailedError,
    UnsupportedFeatureError,
)
from agentsys.serving.openai_engine import RemoteOverloadedError, RemoteUnavailableError
from agentsys.serving.openai_format import RemoteProtocolError, RemoteRefusedError
from agentsys.serving.requests import Chunk, EmbedRequest, GenerateRequest, Message, SamplingParams
from agentsys.serving.scheduling.calls import Call, ReplicaSpec
from agentsys.serving.scheduling.step_time import StepTime

DEFAULT_SLOTS = 32
_GUESS = StepTime(base=0.01, per_prefill=2e-4, per_sequence=5e-4, per_context=1e-7)
_BLAMED = (
    RemoteUnavailableError,
    RemoteProtocolError,
    EngineClosedError,
    EngineFailedError,
    QueueFullError,
    ReplicaFailedError,
    ReplicaHangsError,
)
_REFUSALS = frozenset({401, 403, 404})
_FULL_SECONDS = 1.0
_FORGET = 0.98  # of the longest wait, with each call
_PROBE = "1, 2,"  # says nothing about anybody
_PROBES: tuple[str | Sequence[Message], ...] = (_PROBE, (Message("user", _PROBE),))


def blames_replica(error: ServingError) -> bool:
    """Whether an error says something about the replica rather than about the request."""
    return isinstance(error, _BLAMED)


def is_fatal(error: ServingError) -> bool:
    """Whether one such error is enough: nobody answers there, or it says itself that it can take no more."""
    if isinstance(error, RemoteUnavailableError):
        return error.status is None or pause_of(error) > 0
    return isinstance(error, EngineClosedError | EngineFailedError | ReplicaHangsError | QueueFullError)


def refuses_all(error: ServingError) -> bool:
    """Whether a server may refuse whatever it is asked: it does not know the key, or the model."""
    return isinstance(error, RemoteRefusedError) and error.status in _REFUSALS


def pause_of(error: ServingError) -> float:
    """Return the seconds for which a replica asked to be left alone."""
    if isinstance(error, QueueFullError):
        return _FULL_SECONDS
    return error.retry_after if isinstance(error, RemoteOverloadedError) else 0.0


def without_content(error: ServingError) -> ServingError:
    """Return an error of a call as others than its caller may hear of it.

    A server may repeat in it what it was asked, or what it answered.
    """
    status = getattr(error, "status", None)
    if status is None and not isinstance(error, RemoteProtocolError | ReplicaFailedError):
        return error
    told = copy.copy(error)
    told.message = f"a call failed there with {error.code}" + ("." if status is None else f" and HTTP {status}.")
    told.args = (told.message,)
    return told


@dataclass(frozen=True, slots=True)
class ReplicaSource:
    """What a replica is made of: an engine, or a function that makes one and may block or fail.

    ``slots`` (0: what the engine tells) is how many calls it is given at once; ``audience`` learns their prompts.
    """

    name: str
    engine: Engine | Callable[[], Engine]
    slots: int = 0
    audience: Readers | None = None


@dataclass(eq=False)
class Replica:
    """A replica as the dispatcher sees it. ``in_flight`` counts the calls that it has, ``unseen`` their prompt tokens
    of which no token has come yet, ``embedding`` the requests for vectors, ``fruitless`` the calls in a row that it
    failed on, each as if that were the call's own fault, while no token came of any. ``slowest_start`` is how many
    seconds a call waited for its first token, the longest of late. ``error`` is why it was last taken out of use,
    ``asked_at`` when it last failed.
    """

    source: ReplicaSource
    limits: HealthLimits
    engine: Engine | None = None
    error: ServingError | None = None
    in_flight: int = 0
    unseen: int = 0
    embedding: int = 0
    fruitless: int = 0
    slowest_start: float = 0.0
    answered: int = 0
    failed: int = 0
    down_since: float = 0.0
    asked_at: float = 0.0
    iteration: int = 0
    steps: int = 0
    breaker: CircuitBreaker = field(init=False)
    silence: Silence = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = CircuitBreaker(self.limits)
        self.silence = Silence(self.limits)
        self._making = threading.Lock()
        self._retired = False

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def audience(self) -> Readers:
        """Who learns the prompts; a source that does not say keeps them in this process."""
        told = self.source.audience
        told = getattr(self.source.engine, "audience", NOBODY) if told is None else told
        return told if isinstance(told, Readers) else PUBLIC

    @property
    def adapters(self) -> frozenset[str]:
        """The adapters that it has loaded; of one that is not connected, what its source says that it will."""
        if self.engine is not None:
            return self.engine.capabilities().adapters
        return frozenset(getattr(self.source.engine, "adapters", ()))

    def permits(self, call: Call) -> bool:
        """Whether the call may be shown to those who learn its prompts, and its adapter is there."""
        return call.may_go_to(self.audience, self.adapters)

    @property
    def up(self) -> bool:
        return self.engine is not None and self.breaker.state is Breaker.CLOSED

    @property
    def dead(self) -> bool:
        """Whether it can never work again: an engine that ended, and nothing that makes another."""
        ended = isinstance(self.error, EngineClosedError | EngineFailedError)
        return ended and isinstance(self.source.engine, Engine) and not self.up

    def connect(self, in_place_of: Engine | None = None) -> None:
        """Make the engine, if it is still ``in_place_of`` what it is to replace; blocks.

        Raises our own errors that its source raises, :class:`ReplicaFailedError` for any other, and
        :class:`DispatcherClosedError` once it was retired.
        """
        with self._making:
            if self._retired:
                raise DispatcherClosedError(f"{self.name} is not needed any more.")
            if self.engine is in_place_of:
                self.engine = self._make()

    def _make(self) -> Engine:
        source = self.source.engine
        if isinstance(source, Engine):
            return source
        try:
            return source()
        except AgentsysError:
            raise
        except Exception as error:  # out of memory, say; the other replicas work nevertheless
            raise ReplicaFailedError(f"{self.name} cannot be loaded: {error!r}.") from error

    def retire(self) -> Engine | None:
        """Make no more engines, and return the last one, which may be about to be made; blocks that long."""
        with self._making:
            self._retired = True
            return self.engine

    def spec(self) -> ReplicaSpec:
        """Return what placement needs to know; of one that is not connected, what is usual."""
        if self.engine is None:
            slots = self.source.slots or DEFAULT_SLOTS
            return ReplicaSpec(self.name, slots, _GUESS, audience=self.audience, adapters=self.adapters)
        capabilities, stats = self.engine.capabilities(), self.engine.stats()
        return ReplicaSpec(
            name=self.name,
            slots=self.source.slots or stats.slots or DEFAULT_SLOTS,
            step_time=_GUESS,
            preemptive=capabilities.preemption,
            rekeys=capabilities.rekey,
            audience=self.audience,
            adapters=self.adapters,
        )

    def hangs(self, now: float, *, alone: bool) -> bool:
        """Whether it has been busy and silent for too long; steps of its engine are signs of life too.

        ``now`` is of a clock that does not leap: while a machine sleeps nobody is silent.
        """
        if not self.in_flight:
            self.silence.idle()
            return False
        steps = 0 if self.engine is None else self.engine.stats().steps
        if steps != self.steps:
            self.steps = steps
            self.silence.sign(now)
        # A server may be slow to begin, or think in silence: what it took before it may take again.
        start = self.slowest_start if self.unseen else 0.0
        expected = max(_GUESS.seconds(self.unseen, self.in_flight, self.unseen), start)
        return self.silence.hangs(now, expected, alone=alone)

    def note_start(self, seconds: float) -> None:
        """Note for how long a call waited for its first token. The longest is slowly forgotten."""
        self.slowest_start = max(seconds, _FORGET * self.slowest_start)

    def note_answer(self) -> None:
        """Count an answer; to a replica that was taken out of use meanwhile a probe is the way back."""
        self.answered += 1
        self.fruitless = 0
        if self.up:
            self.breaker.succeeded()

    async def answer_probe(self) -> None:
        """Ask for one token, or of a model that writes none for one vector. Raises what the engine raises.

        Either says more than a server's word that it is well. Some servers continue texts, others answer chats alone.
        """
        assert self.engine is not None
        for prompt in _PROBES:
            try:
                await self._answer_one_token(self.engine, prompt)
                return
            except RequestFailedError as error:
                raise ReplicaFailedError(f"{self.name} failed on a probe: {error.message}") from error
            except (RemoteRefusedError, UnsupportedFeatureError) as error:
                refused: ServingError = error
        if not self.engine.capabilities().embeddings:
            raise refused
        await self.engine.embed(EmbedRequest((_PROBE,), label=Label(readers=PUBLIC)))

    async def _answer_one_token(self, engine: Engine, prompt: str | Sequence[Message]) -> None:
        request = GenerateRequest(prompt, SamplingParams(max_tokens=1), label=Label(readers=PUBLIC))
        async with reading(engine, request) as chunks:
            async for _ in chunks:
                return
        raise ReplicaFailedError(f"{self.name} ended its answer without a token.")


@contextmanager
def foreign_errors_blamed(one: Replica) -> Iterator[None]:
    """Raise :class:`ReplicaFailedError` for whatever an engine raises that is no error of ours.

    Whatever it is, the caller must not wait for ever, and another may have an answer; a panic of Rust is no Exception.
    """
    try:
        yield
    except (ServingError, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:
        raise ReplicaFailedError(f"{one.name} raised {failure!r}.") from failure


@asynccontextmanager
async def reading(engine: Engine, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Give an answer's chunks; leaving the block aborts the request."""
    chunks = engine.submit(request)
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
