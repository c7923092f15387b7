from __future__ import annotations

import asyncio
import threading

import pytest

from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import EngineClosedError, RequestAbortedError
from agentsys.serving.loading import UnknownEngineError
from agentsys.serving.models import EngineOptions, engine_factory
from agentsys.serving.requests import Chunk, EmbedRequest, FinishReason, GenerateRequest, Message, SamplingParams
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.weights.errors import UnknownModelError
from tests.serving.server.scripted import ScriptedEngine

PROMPT = [5, 6, 7]


@pytest.fixture
def make_engine(scripted_runner, tiny_model_dir):
    def make() -> TorchEngine:
        return TorchEngine(scripted_runner(), ModelTokenizer(tiny_model_dir), name="scripted")

    return make


async def test_generate_joins_the_stream(make_engine, scripted_runner) -> None:
    client = ServingClient({"a": make_engine}, "a")
    seen: list[Chunk] = []
    request = GenerateRequest(PROMPT, SamplingParams(max_tokens=12))
    generation = await client.generate(request, on_chunk=seen.append)
    assert list(generation.token_ids) == scripted_runner().greedy(PROMPT, 12)
    assert generation.text == "".join(chunk.text for chunk in seen)
    assert (generation.finish_reason, generation.model) == (FinishReason.LENGTH, "scripted")
    assert generation.usage.completion_tokens == 12
    await client.close()


async def test_an_engine_is_loaded_once_however_many_ask(make_engine) -> None:
    loads = []

    def load() -> TorchEngine:
        loads.append(threading.current_thread())
        return make_engine()

    client = ServingClient({"a": load}, "a")
    assert client.stats() == {}
    await asyncio.gather(*(client.generate(GenerateRequest(PROMPT, SamplingParams(max_tokens=2))) for _ in range(4)))
    assert len(loads) == 1 and loads[0] is not threading.main_thread()
    assert client.stats()["a"].generated_tokens == 8
    assert client.capabilities().context_length == 256
    await client.close()


async def test_a_failed_load_is_tried_again(make_engine) -> None:
    outcomes = [UnknownModelError("not yet"), None]

    def load() -> TorchEngine:
        failure = outcomes.pop(0)
        if failure is not None:
            raise failure
        return make_engine()

    client = ServingClient({"a": load}, "a")
    with pytest.raises(UnknownModelError):
        await client.generate(GenerateRequest(PROMPT))
    assert (await client.generate(GenerateRequest(PROMPT, SamplingParams(max_tokens=1)))).text is not None
    await client.close()


async def test_a_caller_that_gives_up_does_not_stop_the_load_of_others(make_engine) -> None:
    gate = threading.Event()

    def load() -> TorchEngine:
        gate.wait(20)
        return make_engine()

    client = ServingClient({"a": load}, "a")
    first, second = (asyncio.create_task(client.engine()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert isinstance(await second, TorchEngine)
    await client.close()


async def test_models_are_named_and_unknown_ones_refused(make_engine) -> None:
    client = ServingClient({"b": make_engine, "a": make_engine, "c": make_engine}, "c")
    assert client.models == ("c", "a", "b")
    with pytest.raises(UnknownEngineError, match=r"'x'.*a, b, c"):
        await client.generate(GenerateRequest(PROMPT), model="x")
    with pytest.raises(UnknownEngineError):
        ServingClient({"a": make_engine}, "x")


async def test_abort_and_rekey_reach_the_engine(make_engine) -> None:
    client = ServingClient({"a": make_engine()}, "a")
    stream = client.stream(GenerateRequest(PROMPT, SamplingParams(max_tokens=200), request_id="r"))
    await anext(stream)
    client.rekey("r", 1.0)
    client.abort("r")
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].finish_reason is FinishReason.ABORTED
    await client.close()


async def test_an_answer_that_was_aborted_is_not_taken_for_a_whole_one(make_engine) -> None:
    client, begun = ServingClient({"a": make_engine()}, "a"), asyncio.Event()
    request = GenerateRequest(PROMPT, SamplingParams(max_tokens=200, ignore_eos=True), request_id="r")
    asking = asyncio.create_task(client.generate(request, on_chunk=lambda _: begun.set()))
    await begun.wait()
    client.abort("r")
    with pytest.raises(RequestAbortedError, match="'r'"):
        await asking
    await client.close()


async def test_an_unknown_model_fails_at_first_use(tmp_path) -> None:
    client = ServingClient({"m": engine_factory("no-such-model", EngineOptions(models_dir=tmp_path))}, "m")
    with pytest.raises(UnknownModelError):
        await client.generate(GenerateRequest(PROMPT))


@pytest.mark.model
async def test_a_folder_is_a_model_specification(smollm2_dir) -> None:
    options = EngineOptions(threads=1, kv_cache_bytes=2**26)
    client = ServingClient({"m": engine_factory(str(smollm2_dir), options)}, "m")
    request = GenerateRequest([Message("user", "What is the capital of France?")], SamplingParams(max_tokens=12))
    assert "Paris" in (await client.generate(request)).text
    await client.close()


async def test_a_call_that_blocks_and_one_that_awaits_load_one_engine(make_engine) -> None:
    started, go_on, engines = threading.Event(), threading.Event(), []

    def load() -> TorchEngine:
        started.set()
        go_on.wait(20)
        engines.append(make_engine())
        return engines[-1]

    client = ServingClient({"a": load}, "a")
    awaiting = asyncio.create_task(client.engine())
    await asyncio.to_thread(started.wait, 20)
    blocking = asyncio.create_task(asyncio.to_thread(client.capabilities))
    go_on.set()
    await asyncio.gather(awaiting, blocking)
    assert len(engines) == 1
    await client.close()


async def test_engines_are_asked_while_another_is_loaded(make_engine) -> None:
    client = ServingClient({"a": make_engine, "b": make_engine}, "a")
    engine = await client.engine()
    stats = engine.stats

    def slow_stats():
        client.capabilities("b")  # as a thread does at any moment
        return stats()

    engine.stats = slow_stats
    assert set(client.stats()) == {"a"} and set(client.observe()) == {"a", "b"}
    await client.close()


async def test_nothing_is_loaded_once_a_client_is_closed(make_engine) -> None:
    started, go_on, made = threading.Event(), threading.Event(), []

    def load() -> TorchEngine:
        started.set()
        go_on.wait(20)
        made.append(make_engine())
        return made[-1]

    client = ServingClient({"a": load, "b": make_engine}, "a")
    loading = asyncio.create_task(client.engine())
    await asyncio.to_thread(started.wait, 20)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    for model in ("b", "b"):
        with pytest.raises(EngineClosedError):
            await client.generate(GenerateRequest(PROMPT), model=model)
        go_on.set()
        await closing
    await loading
    with pytest.raises(EngineClosedError):
        await anext(aiter(made[0].submit(GenerateRequest(PROMPT))))
    assert client.stats() == {}


async def test_a_load_that_failed_with_nobody_waiting_is_tried_again(make_engine, until) -> None:
    go_on, outcomes, ended = threading.Event(), [UnknownModelError("not yet"), None], threading.Event()

    def load() -> TorchEngine:
        go_on.wait(20)
        failure = outcomes.pop(0)
        if failure is not None:
            ended.set()
            raise failure
        return make_engine()

    client = ServingClient({"a": load}, "a")
    impatient = asyncio.create_task(client.engine())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    go_on.set()
    await asyncio.to_thread(ended.wait, 20)
    await asyncio.to_thread(until, lambda: not client._models._loading)
    assert (await client.engine()).capabilities().model == "scripted"
    await client.close()


async def test_an_engine_that_cannot_be_closed_keeps_no_other_open() -> None:
    closed: list[str] = []

    class Closing(ScriptedEngine):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def close(self) -> None:
            await asyncio.sleep(0)
            if self.name == "broken":
                raise RuntimeError("planted")
            await asyncio.sleep(0.01)
            closed.append(self.name)

    client = ServingClient({name: Closing(name) for name in ("broken", "b")}, "broken")
    sources = [ReplicaSource(name, Closing(name)) for name in ("broken", "c")]
    for name in client.models:
        await client.engine(name)
    for closing in (client.close, Dispatcher(sources).close):
        with pytest.raises(RuntimeError, match="planted"):
            await closing()
    assert closed == ["b", "c"]


@pytest.mark.parametrize("dispatched", [False, True])
async def test_what_is_asked_of_a_request_while_its_model_is_loading_reaches_it(make_engine, dispatched: bool) -> None:
    started, go_on = threading.Event(), threading.Event()

    def load() -> Engine:
        started.set()
        go_on.wait(20)
        return Dispatcher([ReplicaSource("a", make_engine)]) if dispatched else make_engine()

    client = ServingClient({"a": load}, "a")
    asked = [
        GenerateRequest(PROMPT, SamplingParams(max_tokens=200, ignore_eos=True), request_id=name, urgency=1e12)
        for name in ("aborted", "moved")
    ]
    streams = [client.stream(request) for request in asked]
    firsts = [asyncio.create_task(anext(stream)) for stream in streams]
    vectors = asyncio.create_task(client.embed(EmbedRequest(["a text"], request_id="vectors")))
    await asyncio.to_thread(started.wait, 20)
    client.abort("aborted")
    client.abort("vectors")
    client.rekey("moved", 5.0)
    go_on.set()
    assert [await firsts[0], *[chunk async for chunk in streams[0]]][-1].finish_reason is FinishReason.ABORTED
    async with asyncio.timeout(20):
        while not any((one.request_id, one.urgency) == ("moved", 5.0) for one in client.observe()["a"].requests):
            await asyncio.sleep(0)
    await firsts[1]
    with pytest.raises(RequestAbortedError):
        await vectors
    await streams[1].aclose()
    await client.close()
