"""Replicas that live and yet fail: when they get nothing more, when that is no fault of theirs, and how they return."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.errors import ReplicaFailedError, ReplicaHangsError
from agentsys.serving.dispatcher.health import HealthLimits
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Capabilities, EngineStats
from agentsys.serving.engine_errors import RequestFailedError
from agentsys.serving.openai_format import RemoteRefusedError
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, FinishReason, GenerateRequest
from agentsys.serving.scheduling.in_flight import DispatchLimits
from tests.serving.server.scripted import ScriptedEngine

QUICK = HealthLimits(first_pause=0.1, longest_pause=0.1)
POISON = "poison"


class FailingEngine(ScriptedEngine):
    """Fails on the prompts that ``fails_on`` says, and goes on; vectors it has none, while there is a ``fault``.

    With a ``status`` it fails as a server does that refuses.
    """

    def __init__(
        self, fails_on: Callable[[object], bool], fault: BaseException | None = None, status: int | None = None
    ) -> None:
        super().__init__()
        self.fails_on = fails_on
        self.fault = fault
        self.status = status

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        if self.fails_on(request.prompt):
            planted = f"planted: {request.prompt}"
            if self.status is not None:
                raise RemoteRefusedError(planted, status=self.status)
            raise RequestFailedError(planted)
        async for chunk in super().submit(request):
            yield chunk

    async def embed(self, request: EmbedRequest) -> Embedding:
        if self.fault is not None:
            raise self.fault
        return await super().embed(request)


class ThinkingEngine(ScriptedEngine):
    """Begins each answer after half a second without a sign of life, as a server that thinks in silence does."""

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        await asyncio.sleep(0.5)
        async for chunk in super().submit(request):
            yield chunk


class NarrowEngine(ScriptedEngine):
    """Has one slot and takes another κ, and cannot be loaded the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.rekeyed: list[str] = []

    def load(self) -> ScriptedEngine:
        self.loads += 1
        if self.loads == 1:
            raise MemoryError("planted")
        return self

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), rekey=True)

    def stats(self) -> EngineStats:
        return replace(super().stats(), slots=1)

    def rekey(self, request_id: str, urgency: float) -> None:
        self.rekeyed.append(request_id)


class Panic(BaseException):
    """A double of ``pyo3_runtime.PanicException``, which is no ``Exception``."""


def over(*engines: ScriptedEngine, health: HealthLimits = QUICK, outage: float = 10.0) -> Dispatcher:
    sources = [ReplicaSource(f"r{number}", engine) for number, engine in enumerate(engines)]
    return Dispatcher(sources, health=health, limits=DispatchLimits(outage=outage))


async def collect(dispatcher: Dispatcher, prompt: str = "good") -> list[Chunk]:
    async with asyncio.timeout(20):
        return [chunk async for chunk in dispatcher.submit(GenerateRequest(prompt))]


async def fails(dispatcher: Dispatcher, prompt: str = POISON) -> bool:
    try:
        await collect(dispatcher, prompt)
    except (RequestFailedError, RemoteRefusedError):
        return True
    return False


def states(dispatcher: Dispatcher) -> list[str]:
    return [view.state for view in dispatcher.replicas()]


@pytest.mark.parametrize("status", [None, 401, 403, 404])
async def test_a_replica_that_fails_on_every_call_gets_none_until_it_answers_again(status: int | None) -> None:
    failing = FailingEngine(lambda _: True, status=status)
    dispatcher = over(failing, ScriptedEngine())
    assert [await fails(dispatcher, "good") for _ in range(16)].count(True) == QUICK.failures
    assert states(dispatcher)[0] != "closed" and states(dispatcher)[1] == "closed"
    failing.fails_on = lambda _: False
    async with asyncio.timeout(20):
        while states(dispatcher)[0] != "closed":
            await collect(dispatcher)
    await dispatcher.close()


@pytest.mark.parametrize(("status", "others"), [(401, 0), (400, 1)])
async def test_a_server_that_refuses_stays_in_use_where_none_stands_in_or_the_request_is_wrong(
    status: int, others: int
) -> None:
    dispatcher = over(FailingEngine(lambda _: True, status=status), *(ScriptedEngine() for _ in range(others)))
    refused = [await fails(dispatcher) for _ in range(16)].count(True)
    assert refused > QUICK.failures and states(dispatcher)[0] == "closed"
    await dispatcher.close()


async def test_calls_that_a_replica_fails_on_take_it_from_nobody() -> None:
    failing = FailingEngine(lambda prompt: prompt == POISON)
    failing.go_on.clear()
    dispatcher = over(failing)
    held = []
    for _ in range(4):
        assert [await fails(dispatcher) for _ in range(QUICK.failures - 1)] == [True, True]
        held.append(dispatcher.submit(GenerateRequest("good")))
        await anext(held[-1])
    assert states(dispatcher) == ["closed"], "a token came between any three"
    for stream in held:
        await stream.aclose()
    assert [await fails(dispatcher) for _ in range(QUICK.failures)] == [True] * QUICK.failures
    assert states(dispatcher) == ["open"]
    failing.go_on.set()
    assert (await collect(dispatcher))[-1].finish_reason is FinishReason.STOP, "the probe told that it is well"
    await dispatcher.close()


async def test_replicas_that_are_slow_to_begin_do_not_hang() -> None:
    health = HealthLimits(shortest_silence=0.1, attempts=1)
    sources = [ReplicaSource(f"r{number}", ThinkingEngine(), slots=1) for number in range(2)]
    dispatcher = Dispatcher(sources, health=health)
    for _ in range(2):
        for chunks in await asyncio.gather(collect(dispatcher), collect(dispatcher)):
            assert chunks[-1].finish_reason is FinishReason.STOP
    assert [(view.state, view.failed, view.answered) for view in dispatcher.replicas()] == [("closed", 0, 2)] * 2
    await dispatcher.close()


async def test_a_replica_that_could_not_be_loaded_at_first_is_given_what_it_can_do(until) -> None:
    late, other = NarrowEngine(), ScriptedEngine()
    dispatcher = Dispatcher([ReplicaSource("late", late.load), ReplicaSource("other", other, slots=1)], health=QUICK)
    async with asyncio.timeout(20):
        while states(dispatcher)[0] != "closed":
            await collect(dispatcher)
    for engine in (late, other):
        engine.go_on.clear()
    asked = [asyncio.create_task(collect(dispatcher)) for _ in range(4)]
    await asyncio.to_thread(until, lambda: late.running and other.running)
    assert [view.in_flight for view in dispatcher.replicas()] == [1, 1] and dispatcher.stats().waiting == 2
    (running,) = late.running
    dispatcher.rekey(running, time.time())
    assert late.rekeyed == [running]
    for engine in (late, other):
        engine.go_on.set()
    await asyncio.gather(*asked)
    await dispatcher.close()


async def test_who_waits_for_a_replica_that_fails_on_every_call_is_not_told_what_others_asked() -> None:
    dispatcher = over(FailingEngine(lambda _: True), outage=0.3)
    assert [await fails(dispatcher) for _ in range(QUICK.failures)] == [True] * QUICK.failures
    assert POISON not in str(dispatcher.replicas()[0].error)
    with pytest.raises(ReplicaFailedError, match="failed on a probe") as caught:
        await collect(dispatcher)
    assert POISON not in str(caught.value)
    await dispatcher.close()


def test_a_probe_whose_loop_ends_before_it_begins_is_made_again() -> None:
    health = HealthLimits(first_pause=0.01, longest_pause=0.01)
    dispatcher = over(ScriptedEngine(), ScriptedEngine(), health=health)
    broken = dispatcher._replicas["r0"]
    dispatcher._watching.blame(broken, ReplicaHangsError("planted"))
    time.sleep(0.05)

    async def leave() -> None:
        dispatcher._wakes.soon()  # the last that a call does, and its loop may end with it

    async def ask() -> None:
        async with asyncio.timeout(20):
            while not broken.up:
                await collect(dispatcher)

    asyncio.run(leave())
    asyncio.run(ask())
    asyncio.run(dispatcher.close())


@pytest.mark.parametrize("fault", [RuntimeError("planted"), Panic("planted")])
async def test_vectors_come_from_another_replica_where_one_raises_what_no_engine_should(fault: BaseException) -> None:
    first, second = FailingEngine(lambda _: False, fault), FailingEngine(lambda _: False)
    dispatcher = over(first, second)
    for _ in range(4):
        assert (await dispatcher.embed(EmbedRequest(("x",)))).vectors
    assert dispatcher.replicas()[0].failed > 0
    second.fault = fault
    with pytest.raises(ReplicaFailedError, match="planted"):
        await asyncio.wait_for(dispatcher.embed(EmbedRequest(("x",))), 20)
    await dispatcher.close()


async def test_vectors_come_from_another_replica_where_one_refuses_whatever_it_is_asked() -> None:
    refusing, other = (FailingEngine(lambda _: False, fault) for fault in (RemoteRefusedError("no", status=401), None))
    dispatcher = over(refusing, other)
    for _ in range(4):
        assert (await dispatcher.embed(EmbedRequest(("x",)))).vectors
    assert states(dispatcher) == ["closed", "closed"], "it may refuse vectors alone"
    other.fault = RemoteRefusedError("nor I", status=404)
    with pytest.raises(RemoteRefusedError):
        await asyncio.wait_for(dispatcher.embed(EmbedRequest(("x",))), 20)
    refusing.fault, other.fault = RemoteRefusedError("too long", status=400), None
    with pytest.raises(RemoteRefusedError, match="too long"):
        await asyncio.wait_for(dispatcher.embed(EmbedRequest(("x",))), 20)
    await dispatcher.close()


@pytest.mark.parametrize("fault", [RuntimeError("planted"), Panic("planted")])
async def test_a_probe_that_ends_in_what_no_engine_should_raise_is_one_that_fails(fault: BaseException) -> None:
    def fail(_: object) -> bool:
        raise fault

    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    dispatcher = over(FailingEngine(fail), outage=0.3)
    dispatcher._watching.blame(dispatcher._replicas["r0"], ReplicaHangsError("another"))
    with pytest.raises(ReplicaFailedError, match="planted"):
        await collect(dispatcher)
    await dispatcher.close()
    gc.collect()  # with a task whose exception nobody asked for, it is told
    assert not told


async def test_a_probe_without_an_answer_in_time_says_so() -> None:
    health = HealthLimits(first_pause=0.01, longest_pause=0.01, shortest_silence=0.05, longest_silence=0.1)
    dispatcher = over(ThinkingEngine(), health=health, outage=0.3)
    dispatcher._watching.blame(dispatcher._replicas["r0"], ReplicaHangsError("another"))
    with pytest.raises(ReplicaHangsError, match="gave no token within"):
        await collect(dispatcher)
    await dispatcher.close()
