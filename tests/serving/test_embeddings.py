"""A prompt's vector is the mean of its hidden states, however it was cut into steps and whatever ran beside it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
import torch
from transformers import AutoModel

from agentsys.serving.client import ServingClient
from agentsys.serving.engine_errors import RequestAbortedError, RequestTooLongError
from agentsys.serving.openai_engine import OpenAIEngine
from agentsys.serving.openai_format import RemoteRefusedError
from agentsys.serving.requests import EmbedRequest, GenerateRequest, SamplingParams
from agentsys.serving.server.app import serving_app
from agentsys.serving.tokenizer import ModelTokenizer, PromptError
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.limits import Tuning


@pytest.fixture
async def start(scripted_runner, tiny_model_dir) -> AsyncIterator[Callable[..., TorchEngine]]:
    engines: list[TorchEngine] = []

    def make(runner=None, **options) -> TorchEngine:
        tokenizer = ModelTokenizer(tiny_model_dir)
        engines.append(TorchEngine(runner or scripted_runner(), tokenizer, name="scripted", **options))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


def expected(runner, prompt: list[int]) -> np.ndarray:
    mean = np.mean([runner.state(prompt[: end + 1]) for end in range(len(prompt))], axis=0, dtype=np.float64)
    return mean / np.linalg.norm(mean)


async def test_vectors_are_mean_states_of_length_one_in_the_order_asked(start, scripted_runner) -> None:
    runner = scripted_runner()
    prompts = ([7], list(range(20, 60)), "some text", [9, 9])
    found = await ServingClient({"m": start(runner)}, "m").embed(EmbedRequest(prompts))
    assert (len(found.vectors), found.model) == (4, "scripted")
    assert found.prompt_tokens == 1 + 40 + 9 + 2
    for prompt, vector in zip(prompts, found.vectors, strict=True):
        if not isinstance(prompt, str):
            assert vector == pytest.approx(expected(runner, prompt), abs=1e-6)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)


async def test_small_steps_cached_prefixes_and_lost_blocks_change_no_vector(
    start, scripted_runner, scripted_blocks
) -> None:
    runner = scripted_runner(kv=scripted_blocks(num_blocks=14))
    tuning = Tuning(prefill_chunk=3, preemption_quantum=1)
    engine = start(runner, max_batch=2, max_step_tokens=5, tuning=tuning)
    prompt = list(range(30, 66))

    async def generate(name: int) -> None:
        request = GenerateRequest([name, *range(20)], SamplingParams(max_tokens=15), urgency=float(name))
        async for _ in engine.submit(request):
            pass

    embedding = asyncio.create_task(engine.embed(EmbedRequest((prompt, prompt))))
    await asyncio.gather(*(generate(name) for name in range(100, 112)))
    for vector in (await embedding).vectors:
        assert vector == pytest.approx(expected(runner, prompt), abs=1e-6)
    assert engine.stats().preemptions > 0
    assert engine.stats().kv_used_blocks == 0


async def test_faulty_prompts_are_refused_and_leave_nothing_behind(start, until) -> None:
    engine = start()
    for error, prompt in ((PromptError, ""), (RequestTooLongError, [5] * 400)):
        with pytest.raises(error):
            await engine.embed(EmbedRequest(([7], prompt)))
    await asyncio.to_thread(until, lambda: engine.stats().running + engine.stats().waiting == 0)


async def test_cancelling_stops_the_work(start, until) -> None:
    engine = start(max_step_tokens=16)
    task = asyncio.create_task(engine.embed(EmbedRequest(tuple([n] * 200 for n in range(5, 60)))))
    await asyncio.to_thread(until, lambda: engine.stats().running > 0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: engine.stats().running + engine.stats().waiting == 0)


async def test_an_aborted_prompt_ends_in_an_error(start, until) -> None:
    engine = start(max_step_tokens=16)
    task = asyncio.create_task(engine.embed(EmbedRequest(tuple([n] * 200 for n in range(5, 60)), request_id="e")))
    await asyncio.to_thread(until, lambda: engine.stats().running > 0)
    assert {request.request_id for request in engine.queue()} <= {f"e#{index}" for index in range(55)}
    engine.abort("e#54")
    with pytest.raises(RequestAbortedError, match="e#54"):
        await task


async def test_all_prompts_of_a_request_can_be_aborted_by_its_id(start, until, monkeypatch) -> None:
    engine = start(max_step_tokens=16)
    task = asyncio.create_task(engine.embed(EmbedRequest(tuple([n] * 200 for n in range(5, 60)), request_id="e")))
    await asyncio.to_thread(until, lambda: engine.stats().running > 0)
    engine.abort("e")
    with pytest.raises(RequestAbortedError):
        await task
    reading, go_on = threading.Event(), threading.Event()
    prepare = TorchEngine._prepare_embedding

    def slowly(*arguments):
        reading.set()
        go_on.wait(20)
        return prepare(*arguments)

    monkeypatch.setattr(TorchEngine, "_prepare_embedding", slowly)
    task = asyncio.create_task(engine.embed(EmbedRequest(([7] * 200, [8] * 200), request_id="e")))
    await asyncio.to_thread(reading.wait, 20)
    engine.abort("e")
    go_on.set()
    with pytest.raises(RequestAbortedError):
        await task


@pytest.mark.model
async def test_real_vectors_are_those_of_transformers_and_know_likeness(smollm2_dir) -> None:
    texts = ("The cat sat on the mat.", "A cat is sitting on a rug.", "Interest rates rose by a quarter point.")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(smollm2_dir, dtype=torch.float32)
    engine = TorchEngine.load(smollm2_dir, weight_format="float32", threads=1, kv_cache_bytes=2**25, max_step_tokens=16)
    found = (await engine.embed(EmbedRequest(texts))).vectors
    await engine.close()
    with torch.inference_mode():
        for text, vector in zip(texts, found, strict=True):
            ids = torch.tensor([ModelTokenizer(smollm2_dir).encode(text)])
            mean = model(ids).last_hidden_state[0].mean(dim=0)
            assert vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-4)
    torch.set_num_threads(threads)
    cat, rug, rates = (np.array(vector) for vector in found)
    assert cat @ rug > cat @ rates


@pytest.mark.model
async def test_real_vectors_over_http_are_those_of_the_engine_behind(smollm2_dir, listening) -> None:
    inner = TorchEngine.load(smollm2_dir, threads=1, kv_cache_bytes=2**25)
    prompts = ("The cat sat on the mat.", inner.tokenizer.encode("Interest rates rose."), "A cat is sitting on a rug.")
    request = EmbedRequest(prompts)
    with listening(serving_app(ServingClient({"m": inner}, "m"))) as address:
        outer = OpenAIEngine.connect(f"{address}/v1")
        assert outer.capabilities().embeddings
        here, there = await inner.embed(request), await outer.embed(EmbedRequest(prompts, urgency=1.0))
        with pytest.raises(RemoteRefusedError, match="an empty text has no vector"):
            await outer.embed(EmbedRequest(("",)))
        await outer.close()
    await inner.close()
    assert there.prompt_tokens == here.prompt_tokens and len(there.vectors) == 3
    for vector, expected_one in zip(there.vectors, here.vectors, strict=True):
        assert vector == pytest.approx(expected_one, abs=1e-7)  # both are scaled, one of them in float32
