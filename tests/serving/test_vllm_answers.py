"""The engine around a scripted vLLM, which takes no time to start: how requests end, and their keys on the way."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agentsys.serving.constraints import ConstraintError
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import (
    EngineClosedError,
    EngineFailedError,
    RequestFailedError,
    UnsupportedFeatureError,
)
from agentsys.serving.requests import Chunk, Constraint, FinishReason, GenerateRequest, SamplingParams, Usage
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.vllm_engine import engine as module
from agentsys.serving.vllm_engine.answer import VllmAnswer
from agentsys.serving.vllm_engine.engine import VllmEngine
from agentsys.serving.vllm_engine.loading import VllmOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]

PROMPT = [5, 6, 7]
SECONDS = 100  # the first request imports vLLM


def output(*tokens: int, ended: str | None = None) -> Any:
    completion = SimpleNamespace(token_ids=list(tokens), logprobs=None, finish_reason=ended)
    return SimpleNamespace(outputs=[completion], num_cached_tokens=0, metrics=None)


class ScriptedVllm:
    """What the engine uses of vLLM: ``answers`` yields the outputs of each request, or raises."""

    errored = False

    def __init__(self, answers: Callable[[], AsyncIterator[Any]]) -> None:
        self.engine_core = self
        self.model_config = SimpleNamespace(
            max_model_len=512,
            hf_config=SimpleNamespace(eos_token_id=0),
            get_vocab_size=lambda: 320,
            try_get_generation_config=dict,
        )
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=8))
        self.keys: dict[str, int] = {}
        self._answers = answers

    async def generate(self, _prompt: Any, _params: Any, request_id: str, *, priority: int, **_: Any) -> Any:
        self.keys[request_id] = priority
        async for each in self._answers():
            yield each

    async def call_utility_async(self, method: str, *arguments: Any) -> Any:
        if method == "agentsys_report":
            return [0, [], {}, 0]
        known = {name: key for name, key in arguments[0] if name in self.keys}
        self.keys |= known
        return [name for name, _ in arguments[0] if name not in known]

    def shutdown(self, **_: Any) -> None:
        """Nothing runs."""


@pytest.fixture
async def start(tiny_model_dir, monkeypatch) -> AsyncIterator[Callable[..., tuple[VllmEngine, ScriptedVllm]]]:
    engines: list[VllmEngine] = []

    def make(answers: Callable[[], AsyncIterator[Any]]) -> tuple[VllmEngine, ScriptedVllm]:
        scripted = ScriptedVllm(answers)
        monkeypatch.setattr(module, "start", lambda *_: scripted)
        engines.append(VllmEngine(tiny_model_dir, VllmOptions()))
        return engines[-1], scripted

    yield make
    for engine in engines:
        await engine.close()


def request(**options: Any) -> GenerateRequest:
    return GenerateRequest(PROMPT, SamplingParams(max_tokens=8), **options)


async def collect(engine: Engine, asked: GenerateRequest) -> list[Chunk]:
    async with asyncio.timeout(SECONDS):
        return [chunk async for chunk in engine.submit(asked)]


async def short() -> AsyncIterator[Any]:
    yield output(70)
    yield output(71, ended="length")


async def test_an_answer_ends_as_vllm_says(start) -> None:
    engine, _ = start(short)
    chunks = await collect(engine, request())
    assert [token for chunk in chunks for token in chunk.token_ids] == [70, 71]
    assert chunks[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("constraint", "error"), [(None, RequestFailedError), (Constraint("regex", "[a-z]+"), ConstraintError)]
)
async def test_an_answer_that_vllm_gives_up_ends_with_an_error(start, constraint, error) -> None:
    async def given_up() -> AsyncIterator[Any]:
        yield output(70)
        yield output(71, ended="error")

    engine, _ = start(given_up)
    with pytest.raises(error, match="gave the answer up"):
        await collect(engine, request(constraint=constraint))


@pytest.mark.parametrize("urgency", [1000.0, 3000.0])
async def test_a_new_key_that_comes_while_the_prompt_is_read_is_the_key(start, monkeypatch, urgency: float) -> None:
    engine, scripted = start(short)
    reading, go_on, encode = threading.Event(), threading.Event(), ModelTokenizer.encode

    def slow_encode(self: ModelTokenizer, prompt: Any) -> list[int]:
        reading.set()
        go_on.wait(20)
        return encode(self, prompt)

    monkeypatch.setattr(ModelTokenizer, "encode", slow_encode)
    asked = asyncio.create_task(collect(engine, request(urgency=2000.0, request_id="r")))
    await asyncio.to_thread(reading.wait, 20)
    engine.rekey("r", urgency)
    async with asyncio.timeout(20):
        while not any(row.urgency == urgency for row in engine.queue() or ()):
            await asyncio.sleep(0.001)
    go_on.set()
    await asked
    assert scripted.keys == {"r": int(urgency * 1000)}


async def test_what_vllm_refuses_is_the_fault_of_the_request(start) -> None:
    from vllm.exceptions import VLLMValidationError

    async def refused() -> AsyncIterator[Any]:
        raise VLLMValidationError("planted refusal")
        yield

    engine, _ = start(refused)
    with pytest.raises(UnsupportedFeatureError, match="planted refusal"):
        await collect(engine, request())


async def test_bounds_of_vllm_that_are_narrower_than_ours_are_the_fault_of_the_request(start) -> None:
    engine, _ = start(short)
    dispatcher = Dispatcher([ReplicaSource("r", engine)])
    with pytest.raises(UnsupportedFeatureError, match="temperature"):
        await collect(dispatcher, GenerateRequest(PROMPT, SamplingParams(max_tokens=8, temperature=3.0)))
    assert (dispatcher.replicas()[0].state, dispatcher.replicas()[0].failed) == ("closed", 0)
    await dispatcher.close()


class Panic(BaseException):
    """A double of ``pyo3_runtime.PanicException``, which is no ``Exception``."""


@pytest.mark.parametrize("kind", [ValueError, Panic])
async def test_one_answer_that_vllm_fails_on_leaves_the_engine_in_use(start, kind) -> None:
    failures = [kind("planted failure")]

    async def failing_once() -> AsyncIterator[Any]:
        yield output(70)
        if failures:
            raise failures.pop()
        yield output(71, ended="length")

    engine, _ = start(failing_once)
    dispatcher = Dispatcher([ReplicaSource("r", engine)])
    with pytest.raises(RequestFailedError, match="planted failure"):
        await collect(dispatcher, request())
    assert (dispatcher.replicas()[0].state, dispatcher.replicas()[0].failed) == ("closed", 0)
    assert (await collect(dispatcher, request()))[-1].finish_reason is FinishReason.LENGTH
    await dispatcher.close()


@pytest.mark.parametrize("dead", [True, False])
async def test_an_engine_that_died_is_used_no_more(start, dead: bool) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    async def dying() -> AsyncIterator[Any]:
        yield output(70)
        scripted.errored = True
        raise EngineDeadError if dead else EngineGenerateError("what hands the outputs out has ended")

    engine, scripted = start(dying)
    for _ in range(2):
        with pytest.raises(EngineFailedError, match="vLLM died"):
            await collect(engine, request())


async def test_a_request_that_comes_while_the_engine_is_closed_does_not_wait_for_ever(start, monkeypatch) -> None:
    engine, _ = start(short)

    def close_meanwhile(*_: Any) -> None:
        closing = threading.Thread(target=engine.stop)
        closing.start()
        closing.join()

    monkeypatch.setattr(module, "check_adapter", close_meanwhile)
    with pytest.raises(EngineClosedError):
        await collect(engine, request())


async def test_totals_never_go_back_while_a_request_ends(start, monkeypatch) -> None:
    engine, _ = start(short)
    usage, told, readers = VllmAnswer.usage, [], []

    def usage_at_the_end(self: VllmAnswer) -> Usage:
        if not readers and self.ended and threading.current_thread() is threading.main_thread():
            readers.append(threading.Thread(target=lambda: told.append(engine.stats().generated_tokens)))
            readers[0].start()
            readers[0].join(0.2)
        return usage(self)

    monkeypatch.setattr(VllmAnswer, "usage", usage_at_the_end)
    await collect(engine, request())
    await asyncio.to_thread(readers[0].join, 20)
    assert told == [2]


async def test_an_engine_closes_while_requests_come_and_go(start) -> None:
    class Leaving(VllmAnswer):
        @property
        def task(self) -> None:
            engine._answers.pop("leaving", None)

        @task.setter
        def task(self, _: None) -> None: ...

    engine, _ = start(short)
    engine._answers["leaving"] = Leaving(lambda _: None, 0)
    engine._answers["staying"] = VllmAnswer(lambda _: None, 0)
    await engine.close()
    assert not engine._thread.is_alive()
