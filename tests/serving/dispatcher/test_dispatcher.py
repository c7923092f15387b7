"""The dispatcher over real torch engines with a scripted model: same answers, whatever happens between."""

from __future__ import annotations

import asyncio
import time

import pytest

from agentsys.blackboard.labels import OWNER, PUBLIC, Label, Readers
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.errors import DispatcherClosedError, ReplicaFailedError, ReplicaHangsError
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import DuplicateRequestError, RequestTooLongError
from agentsys.serving.requests import Chunk, EmbedRequest, FinishReason, GenerateRequest, SamplingParams, WorkflowCall
from agentsys.serving.scheduling.calls import NoReplicaError, OverloadedError
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine

PROMPT = [5, 6, 7, 8]


def request(prompt=PROMPT, *, max_tokens: int = 12, **options) -> GenerateRequest:
    return GenerateRequest(prompt, SamplingParams(max_tokens=max_tokens), **options)


async def collect(engine: Engine, asked: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(asked)]


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


@pytest.fixture
async def start(scripted_runner, tiny_model_dir):
    opened = []

    def make(count: int = 1, *, slots: int = 4, limits=None, health=None, audiences=None) -> Dispatcher:
        engines = [
            TorchEngine(scripted_runner(), ModelTokenizer(tiny_model_dir), name="scripted", max_batch=slots)
            for _ in range(count)
        ]
        sources = [
            ReplicaSource(f"r{index}", engine, audience=(audiences or {}).get(f"r{index}"))
            for index, engine in enumerate(engines)
        ]
        opened.append(Dispatcher(sources, limits=limits, health=health))
        return opened[-1]

    yield make
    for dispatcher in opened:
        await dispatcher.close()


async def test_a_dispatcher_is_an_engine_that_answers_like_its_replicas(start, scripted_runner) -> None:
    dispatcher = start()
    assert isinstance(dispatcher, Engine)
    chunks = await collect(dispatcher, request())
    assert tokens(chunks) == scripted_runner().greedy(PROMPT, 12)
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4, 12)
    timings = chunks[-1].timings
    assert 0 <= timings.queued <= timings.first_token <= timings.total


async def test_many_calls_over_several_replicas_all_get_their_own_answer(start, scripted_runner) -> None:
    dispatcher = start(3, slots=2)
    prompts = [[30 + index, 7] for index in range(24)]
    answers = await asyncio.gather(*(collect(dispatcher, request(prompt)) for prompt in prompts))
    assert [tokens(chunks) for chunks in answers] == [scripted_runner().greedy(prompt, 12) for prompt in prompts]
    views = dispatcher.replicas()
    assert sum(view.answered for view in views) == 24 and all(view.answered for view in views)
    assert all(view.in_flight == 0 for view in views) and dispatcher.queue() == ()


async def test_errors_about_the_request_reach_the_caller_and_blame_no_replica(start) -> None:
    dispatcher = start()
    with pytest.raises(RequestTooLongError):
        await collect(dispatcher, request([5] * 600))
    (view,) = dispatcher.replicas()
    assert (view.state, view.failed, view.in_flight) == ("closed", 0, 0)
    assert (await collect(dispatcher, request()))[-1].finish_reason is FinishReason.LENGTH


async def test_as_many_tokens_may_be_asked_for_as_can_be_named(start) -> None:
    dispatcher = start()
    chunks = await collect(dispatcher, request(max_tokens=10**400))
    assert chunks[-1].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)


class Panic(BaseException):
    """A double of ``pyo3_runtime.PanicException``, which is no ``Exception``."""


async def test_a_panic_of_native_code_ends_the_call_with_a_typed_error(start, monkeypatch) -> None:
    prepare = TorchEngine._prepare

    def panicking(self, asked, *rest):
        if asked.prompt == [9]:
            raise Panic("planted panic")
        return prepare(self, asked, *rest)

    monkeypatch.setattr(TorchEngine, "_prepare", panicking)
    dispatcher = start(2)
    with pytest.raises(ReplicaFailedError, match="planted panic"):
        await asyncio.wait_for(collect(dispatcher, request([9])), 20)
    assert (await collect(dispatcher, request()))[-1].finish_reason is FinishReason.LENGTH


async def test_more_calls_than_may_wait_are_refused_with_a_time_to_come_back(start) -> None:
    dispatcher = start(slots=1, limits=DispatchLimits(queue=3, overcommit=1.0))
    asked = [collect(dispatcher, request([40 + index], max_tokens=4)) for index in range(40)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    refused = [result for result in results if isinstance(result, OverloadedError)]
    assert refused and all(error.retry_after > 0 for error in refused)
    assert len(refused) + sum(isinstance(result, list) for result in results) == 40
    assert dispatcher.queue() == ()


async def test_a_call_goes_only_where_its_label_lets_it(start) -> None:
    dispatcher = start(2, audiences={"r0": Readers.of("model-server:far")})
    owner = Label(readers=Readers.of(OWNER))
    for index in range(8):
        await collect(dispatcher, request([50 + index], max_tokens=2, label=owner))
    assert [view.answered for view in dispatcher.replicas()] == [0, 8]


async def test_vectors_come_from_where_the_label_lets_the_texts_go(start) -> None:
    dispatcher = start(3, audiences={"r0": Readers.of("model-server:far")})
    owner = Label(readers=Readers.of(OWNER))
    await asyncio.gather(*(dispatcher.embed(EmbedRequest(([5 + index],), label=owner)) for index in range(12)))
    counts = [view.answered for view in dispatcher.replicas()]
    assert counts[0] == 0 and min(counts[1:]) > 2, "and are spread over those"
    public = EmbedRequest(([5],), label=owner, audience=PUBLIC)
    assert (await dispatcher.embed(public)).vectors == (await dispatcher.embed(EmbedRequest(([5],)))).vectors


async def test_a_call_that_no_replica_may_see_is_refused(start) -> None:
    dispatcher = start(audiences={"r0": Readers.of("model-server:far")})
    with pytest.raises(NoReplicaError):
        await collect(dispatcher, request(label=Label(readers=Readers.of(OWNER))))
    with pytest.raises(NoReplicaError):
        await dispatcher.embed(EmbedRequest(([5],), label=Label(readers=Readers.of(OWNER))))


async def test_an_id_in_use_is_refused_and_free_again_after(start) -> None:
    dispatcher = start()
    stream = dispatcher.submit(request(request_id="r", max_tokens=100))
    await anext(stream)
    with pytest.raises(DuplicateRequestError):
        await collect(dispatcher, request(request_id="r"))
    await stream.aclose()
    assert (await collect(dispatcher, request(request_id="r")))[-1].finish_reason is FinishReason.LENGTH


async def test_abort_ends_a_running_and_a_waiting_call(start) -> None:
    dispatcher = start(slots=1, limits=DispatchLimits(overcommit=1.0))
    running = dispatcher.submit(request(request_id="running", max_tokens=400))
    await anext(running)
    waiting = asyncio.create_task(collect(dispatcher, request([9], request_id="waiting")))
    while len(dispatcher.queue()) < 2:
        await asyncio.sleep(0)
    assert dispatcher.stats().waiting >= 1
    for name in ("waiting", "running", "unknown"):
        dispatcher.abort(name)
    assert [chunk.finish_reason for chunk in await waiting] == [FinishReason.ABORTED]
    assert [chunk async for chunk in running][-1].finish_reason is FinishReason.ABORTED
    assert dispatcher.queue() == () and dispatcher.replicas()[0].in_flight == 0


async def test_the_most_urgent_waiting_call_starts_first(start) -> None:
    dispatcher = start(slots=1, limits=DispatchLimits(overcommit=1.0))
    order: list[str] = []

    async def ask(name: str, deadline: float) -> None:
        place = WorkflowCall(name, "kind", "stage", deadline=deadline)
        await collect(dispatcher, request([hash(name) % 200 + 20], max_tokens=3, request_id=name, call=place))
        order.append(name)

    base = time.time() + 1000
    holder = dispatcher.submit(request(max_tokens=40))
    await anext(holder)
    waiting = [asyncio.create_task(ask(f"d{offset}", base + offset)) for offset in (300, 100, 200)]
    while len(dispatcher.queue()) < 4:
        await asyncio.sleep(0)
    dispatcher.rekey("d300", base)
    async for _ in holder:
        pass
    await asyncio.gather(*waiting)
    assert order == ["d300", "d100", "d200"]


async def test_calls_are_served_by_the_urgency_that_they_name(start) -> None:
    dispatcher = start(slots=1, limits=DispatchLimits(overcommit=1.0, triage=0.001))
    order: list[str] = []

    async def ask(name: str, **where) -> None:
        await collect(dispatcher, request([hash(name) % 200 + 20], max_tokens=2, request_id=name, **where))
        order.append(name)

    holder = dispatcher.submit(request(max_tokens=40))
    await anext(holder)
    placed = WorkflowCall("w", "kind", "stage", "user:ann", urgency=2.0)
    asked = [ask("third", urgency=3.0), ask("second", call=placed, urgency=2.0), ask("first", urgency=1.0)]
    waiting = [asyncio.create_task(one) for one in asked]
    while len(dispatcher.queue()) < 4:
        await asyncio.sleep(0)
    async for _ in holder:
        await asyncio.sleep(0.005)
    await asyncio.gather(*waiting)
    assert order == ["first", "second", "third"]


async def test_deadlines_hold_after_the_machine_slept(start, monkeypatch) -> None:
    dispatcher = start(slots=1, limits=DispatchLimits(overcommit=1.0))
    order: list[str] = []

    async def ask(name: str, **where) -> None:
        await collect(dispatcher, request([hash(name) % 200 + 20], max_tokens=2, request_id=name, **where))
        order.append(name)

    monkeypatch.setattr("agentsys.serving.dispatcher.dispatcher._ahead_of_steady", time.time() - time.monotonic())
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 8 * 3600)  # the monotonic clock stood still meanwhile
    holder = dispatcher.submit(request(max_tokens=60))
    await anext(holder)
    urgent = WorkflowCall("w", "kind", "stage", deadline=time.time() + 30, arrived=time.time())
    waiting = [asyncio.create_task(one) for one in (ask("no hurry"), ask("soon", call=urgent))]
    while len(dispatcher.queue()) < 3:
        await asyncio.sleep(0)
    async for _ in holder:
        pass
    await asyncio.gather(*waiting)
    assert order == ["soon", "no hurry"]


async def test_a_moved_deadline_is_told_of_each_call_of_the_workflow(start, monkeypatch) -> None:
    dispatcher, told = start(slots=4), []
    place = WorkflowCall("w", "kind", "stage", deadline=2e9)
    streams = [dispatcher.submit(request([20 + n], request_id=f"c{n}", max_tokens=200, call=place)) for n in range(3)]
    for stream in streams:
        await anext(stream)
    monkeypatch.setattr(TorchEngine, "rekey", lambda _self, name, _urgency: told.append(name))
    dispatcher.rekey("c1", 1e9)
    assert sorted(told) == ["c0", "c1", "c2"]
    for stream in streams:
        await stream.aclose()


async def test_a_call_that_ends_before_another_loop_says_that_it_hangs_blames_nobody(start) -> None:
    dispatcher, name = start(), "r"
    stream = dispatcher.submit(request(request_id=name, max_tokens=20))
    beginning = asyncio.create_task(anext(stream))
    while name not in dispatcher._calls or not dispatcher._calls[name].copies:
        await asyncio.sleep(0)
    answering = dispatcher._calls[name]
    copy = answering.copies["r0"]
    await beginning
    while copy.replica.in_flight:
        await asyncio.sleep(0)
    answering.on_loop(dispatcher.lost, answering, copy, ReplicaHangsError("r0 hangs"))
    assert [chunk async for chunk in stream][-1].finish_reason is FinishReason.LENGTH
    (view,) = dispatcher.replicas()
    assert (view.state, view.failed, view.in_flight) == ("closed", 0, 0)


async def test_a_replica_that_cannot_be_loaded_keeps_no_other_from_answering(start) -> None:
    working = next(iter(start()._replicas.values())).source.engine

    def fail() -> Engine:
        raise RuntimeError("out of memory")

    dispatcher = Dispatcher([ReplicaSource("broken", fail), ReplicaSource("r0", working)])
    assert (await collect(dispatcher, request()))[-1].finish_reason is FinishReason.LENGTH
    assert "out of memory" in str(dispatcher.replicas()[0].error)
    with pytest.raises(ReplicaFailedError, match="out of memory"):
        Dispatcher([ReplicaSource("broken", fail)])
    await dispatcher.close()


async def test_closing_ends_every_stream_with_a_typed_error(start) -> None:
    dispatcher = start(slots=1)
    asked = [asyncio.create_task(collect(dispatcher, request([60 + index], max_tokens=300))) for index in range(5)]
    while len(dispatcher.queue()) < 5:
        await asyncio.sleep(0)
    await dispatcher.close()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, DispatcherClosedError) for result in results)
    with pytest.raises(DispatcherClosedError):
        await collect(dispatcher, request())


async def test_calls_of_two_event_loops_are_answered_at_once(start, scripted_runner) -> None:
    dispatcher = start(slots=1, limits=DispatchLimits(overcommit=1.0))

    def elsewhere() -> list[Chunk]:
        return asyncio.run(collect(dispatcher, request([90], max_tokens=30)))

    there = asyncio.to_thread(elsewhere)
    here = collect(dispatcher, request([91], max_tokens=30))
    results = await asyncio.gather(there, here)
    assert [tokens(chunks) for chunks in results] == [scripted_runner().greedy([first], 30) for first in (90, 91)]
