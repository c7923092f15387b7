"""More requests than the torch engine may hold: some are refused at once, and those it holds are served."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agentsys.serving.engine_errors import QueueFullError
from agentsys.serving.requests import Constraint, EmbedRequest, GenerateRequest, SamplingParams
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine

SAMPLING = SamplingParams(max_tokens=12, ignore_eos=True)


@pytest.fixture
async def engine(scripted_runner, scripted_blocks, tiny_model_dir):
    made = TorchEngine(
        scripted_runner(kv=scripted_blocks(num_blocks=20)),
        ModelTokenizer(tiny_model_dir),
        name="scripted",
        max_batch=2,
        max_waiting=10,
    )
    yield made
    await made.close()


async def ask(engine: TorchEngine, first: int) -> list[int]:
    request = GenerateRequest([first, *range(20)], SAMPLING)
    return [token async for chunk in engine.submit(request) for token in chunk.token_ids]


async def test_a_full_queue_refuses_and_what_it_holds_is_answered(engine, scripted_runner) -> None:
    answers = await asyncio.gather(*(ask(engine, first) for first in range(30, 130)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert 80 <= len(refused) <= 90 and all(isinstance(answer, QueueFullError) for answer in refused)
    runner = scripted_runner()
    for first, answer in zip(range(30, 130), answers, strict=True):
        if not isinstance(answer, BaseException):
            assert answer == runner.greedy([first, *range(20)], 12)
    assert await ask(engine, 7) == runner.greedy([7, *range(20)], 12), "there is room again"
    assert engine.stats().kv_used_blocks == 0


async def test_more_prompts_to_embed_than_may_wait_are_refused_whole(engine) -> None:
    with pytest.raises(QueueFullError, match="holds 10"):
        await engine.embed(EmbedRequest(([7],) * 11))
    assert len((await engine.embed(EmbedRequest(([7],) * 10))).vectors) == 10


async def test_prompts_to_embed_that_are_still_being_read_count_as_waiting(engine) -> None:
    asked = (engine.embed(EmbedRequest(([7],) * 6)) for _ in range(5))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(answer, QueueFullError) for answer in answers] == [False, True, True, True, True]
    assert len((await engine.embed(EmbedRequest(([7],) * 10))).vectors) == 10


async def test_a_long_step_lets_no_more_in_than_may_wait(scripted_runner, tiny_model_dir, monkeypatch, until) -> None:
    runner, go_on, read = scripted_runner(), threading.Event(), []
    step, encode = runner.step, ModelTokenizer.encode
    runner.step = lambda batch: go_on.wait(20) and step(batch)
    monkeypatch.setattr(ModelTokenizer, "encode", lambda self, prompt: read.append(prompt) or encode(self, prompt))
    engine = TorchEngine(runner, ModelTokenizer(tiny_model_dir), name="scripted", max_batch=2, max_waiting=10)
    asked = []
    for first in range(30, 60):
        asked.append(asyncio.create_task(ask(engine, first)))
        count = len(asked)
        await asyncio.to_thread(until, lambda count=count: len(read) == count or asked[count - 1].done())
    go_on.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, QueueFullError) for answer in answers) >= 18, "two run, and ten may wait"
    await engine.close()


async def test_answers_under_one_grammar_do_not_disturb_each_other(engine) -> None:
    constraint = Constraint("regex", "(aa|bb)[cd]{4}")

    async def under_grammar(first: int) -> str:
        request = GenerateRequest([first], SamplingParams(max_tokens=20, temperature=1.0, seed=first), constraint)
        return "".join([chunk.text async for chunk in engine.submit(request)])

    texts = await asyncio.gather(*(under_grammar(first) for first in range(40, 48)))
    assert all(text[:2] in ("aa", "bb") and len(text) == 6 and set(text[2:]) <= set("cd") for text in texts)
    assert len(set(texts)) > 1
