"""What every engine must do, whatever runs underneath: torch here, our HTTP server, vLLM where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.labels import Label, Readers
from agentsys.errors import ServingError
from agentsys.serving.client import ServingClient
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import UnknownAdapterError, UnsupportedFeatureError
from agentsys.serving.models import EngineOptions, engine_factory, replicated
from agentsys.serving.openai_engine import OpenAIEngine
from agentsys.serving.requests import (
    Chunk,
    Constraint,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    Message,
    SamplingParams,
)
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.tokenizer import ModelTokenizer

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

OPTIONS = EngineOptions(kv_cache_bytes=256 * 2**20, max_batch=4)
HAS_VLLM = importlib.util.find_spec("vllm") is not None
ENGINES = [
    "torch",
    "openai",
    "dispatcher",
    pytest.param(
        "vllm", marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed here")]
    ),
]
CHAT = [Message("user", "Name three colours.")]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "warm": {"type": "boolean"}},
    "required": ["colour", "warm"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, smollm2_dir: Path, listening) -> Iterator[Engine]:
    if request.param == "openai":
        from agentsys.serving.server.app import serving_app

        inner = engine_factory(str(smollm2_dir), OPTIONS)()
        with listening(serving_app(ServingClient({"m": inner}, "m"))) as address:
            outer = OpenAIEngine.connect(f"{address}/v1")
            yield outer
            asyncio.run(outer.close())
        asyncio.run(inner.close())
        return
    if request.param == "dispatcher":
        # Two engines in one process share the cores; what they answer is what counts here.
        several = replicated([str(smollm2_dir)] * 2, OPTIONS, WorkflowTable())()
        yield several
        asyncio.run(several.close())
        return
    if request.param == "vllm":
        yield request.getfixturevalue("vllm_engine")
        return
    made = engine_factory(str(smollm2_dir), OPTIONS)()
    yield made
    asyncio.run(made.close())


def asked(prompt: Any = CHAT, *, constraint: Constraint | None = None, label: Label | None = None, **sampling: Any):
    params = SamplingParams(**{"max_tokens": 16} | sampling)
    return GenerateRequest(prompt, params, constraint, label=label or Label())


async def collect(engine: Engine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(request)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def idle(engine: Engine) -> None:
    async with asyncio.timeout(20):
        while engine.stats().running + engine.stats().waiting:
            await asyncio.sleep(0.01)


def test_it_is_an_engine_and_says_what_it_can(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.capabilities() == engine.capabilities()
    assert engine.capabilities().context_length > 1000
    assert "json_schema" in engine.capabilities().constraints


async def test_an_answer_streams_and_ends_with_reason_usage_and_timings(engine: Engine) -> None:
    # Tokens that come faster than they are read come together, so a few may be one chunk on a busy machine.
    chunks = await collect(engine, asked(max_tokens=64, ignore_eos=True))
    assert len(chunks) > 3 and text(chunks)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage.completion_tokens == 64 and last.usage.prompt_tokens > 5
    assert 0 <= last.timings.queued <= last.timings.first_token <= last.timings.total
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    assert len(tokens) in (0, 64), "all token ids, or none from a server that does not tell"


async def test_greedy_answers_are_the_same_twice_and_for_text_or_tokens(engine: Engine, smollm2_dir: Path) -> None:
    first = text(await collect(engine, asked("The capital of France is")))
    assert "Paris" in first
    assert text(await collect(engine, asked("The capital of France is"))) == first
    tokens = ModelTokenizer(smollm2_dir).encode("The capital of France is")
    assert text(await collect(engine, asked(tokens))) == first


async def test_a_seed_makes_a_sampled_answer_reproducible(engine: Engine) -> None:
    texts = [text(await collect(engine, asked(temperature=1.5, seed=seed))) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


async def test_many_at_once_are_all_answered(engine: Engine) -> None:
    answers = await asyncio.gather(
        *(collect(engine, asked(f"{index} is a number and", ignore_eos=True)) for index in range(9))
    )
    assert all(answer[-1].finish_reason is FinishReason.LENGTH for answer in answers)
    await idle(engine)


async def test_a_stop_string_ends_the_answer_and_stays_out_of_it(engine: Engine) -> None:
    whole = text(await collect(engine, asked()))
    stop = whole[6:9]
    chunks = await collect(engine, asked(stop=(stop,)))
    assert text(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_an_end_token_ends_the_answer_unless_ignored(engine: Engine) -> None:
    prompt = [Message("user", "Say only: yes.")]
    chunks = await collect(engine, asked(prompt, max_tokens=300))
    assert chunks[-1].finish_reason is FinishReason.STOP and "<|im_end|>" not in text(chunks)
    longer = chunks[-1].usage.completion_tokens + 5
    ignoring = await collect(engine, asked(prompt, max_tokens=longer, ignore_eos=True))
    assert ignoring[-1].usage.completion_tokens == longer


async def test_biases_force_and_forbid_tokens_and_penalties_end_repetition(engine: Engine, smollm2_dir: Path) -> None:
    [seven] = ModelTokenizer(smollm2_dir).encode(" seven")
    forced = text(await collect(engine, asked("One, two,", logit_bias={seven: 100.0}, max_tokens=4)))
    assert forced == " seven" * 4
    liking = {"prompt": "One, two,", "ignore_eos": True, "logit_bias": {seven: 16.0}}
    assert text(await collect(engine, asked(**liking))) == " seven" * 16
    assert " seven" not in text(await collect(engine, asked(**liking | {"logit_bias": {seven: -100.0}})))
    for penalty in ({"frequency_penalty": 2.0}, {"frequency_penalty": 1.5, "presence_penalty": 2.0}):
        once, again = [text(await collect(engine, asked(**liking, **penalty))) for _ in range(2)]
        assert once == again and once.startswith(" seven") and once.count(" seven") < 16


async def test_a_grammar_wins_over_a_bias(engine: Engine, smollm2_dir: Path) -> None:
    [seven] = ModelTokenizer(smollm2_dir).encode(" seven")
    constraint = Constraint("json_schema", json.dumps(SCHEMA))
    answer = asked(constraint=constraint, max_tokens=60, logit_bias={seven: 100.0}, frequency_penalty=2.0)
    assert json.loads(text(await collect(engine, answer)))["colour"] in ("red", "green")


async def test_a_token_that_the_model_does_not_have_is_refused(engine: Engine) -> None:
    with pytest.raises(ServingError, match="10000000"):
        await collect(engine, asked(logit_bias={10_000_000: 1.0}))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_a_schema_holds(engine: Engine, temperature: float) -> None:
    constraint = Constraint("json_schema", json.dumps(SCHEMA))
    chunks = await collect(engine, asked(constraint=constraint, max_tokens=60, temperature=temperature, seed=1))
    value = json.loads(text(chunks))
    assert value["colour"] in ("red", "green") and isinstance(value["warm"], bool)
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_other_grammars_hold(engine: Engine) -> None:
    for constraint in (Constraint("regex", "[ab]{3}"), Constraint("lark", 'start: "a" "b" "a" | "bbb"')):
        if constraint.kind in engine.capabilities().constraints:
            assert text(await collect(engine, asked(constraint=constraint))) in (
                {"aba", "bbb"} if constraint.kind == "lark" else {a + b + c for a in "ab" for b in "ab" for c in "ab"}
            )


async def test_a_malformed_grammar_and_a_prompt_too_long_are_refused(engine: Engine) -> None:
    too_long = [5] * (engine.capabilities().context_length + 1)
    for request in (asked(constraint=Constraint("regex", "(")), asked(too_long), asked("")):
        with pytest.raises(ServingError) as caught:
            await collect(engine, request)
        assert caught.value.code.startswith("AGS-04")
    assert text(await collect(engine, asked()))


async def test_abort_ends_the_stream_with_what_was_generated(engine: Engine) -> None:
    request = asked(max_tokens=2000, ignore_eos=True)
    chunks: list[Chunk] = []
    async with asyncio.timeout(60):
        async for chunk in engine.submit(request):
            chunks.append(chunk)
            if len(chunks) == 3:
                engine.abort(request.request_id)
    assert chunks[-1].finish_reason is FinishReason.ABORTED
    engine.abort("unknown")
    engine.rekey("unknown", 1.0)
    await idle(engine)


async def test_closing_the_iterator_frees_the_request(engine: Engine) -> None:
    stream = engine.submit(asked(max_tokens=2000, ignore_eos=True))
    await anext(stream)
    assert engine.stats().running == 1
    await stream.aclose()
    await idle(engine)


async def test_an_id_in_use_is_refused(engine: Engine) -> None:
    if isinstance(engine, OpenAIEngine):
        pytest.skip("ids do not travel: each server has its own")
    request = asked(max_tokens=500, ignore_eos=True)
    first = engine.submit(request)
    await anext(first)
    with pytest.raises(ServingError, match="still being answered"):
        await collect(engine, request)
    await first.aclose()
    await idle(engine)


async def test_a_prefix_is_shared_within_readers_and_not_across(engine: Engine) -> None:
    if isinstance(engine, OpenAIEngine):
        pytest.skip("labels do not travel to a server")
    prompt = "A long text about ships and the sea, told by an old sailor. " * 24
    cached = []
    # Of two replicas behind a dispatcher both have it by the last call, whichever were chosen.
    for reader in ("ann", "bob", "ann", "ann"):
        label = Label(readers=Readers.of(f"user:{reader}"))
        cached.append((await collect(engine, asked(prompt, label=label)))[-1].usage.cached_tokens)
    assert cached[0] == cached[1] == 0 < cached[3]


async def test_logprobs_are_given_for_every_token_or_refused(engine: Engine) -> None:
    if not engine.capabilities().logprobs:
        with pytest.raises(UnsupportedFeatureError):
            await collect(engine, asked(logprobs=2))
        return
    chunks = await collect(engine, asked(logprobs=2))
    logprobs = [item for chunk in chunks for item in chunk.logprobs]
    assert len(logprobs) == chunks[-1].usage.completion_tokens
    assert all(item.chosen.logprob <= 0 and len(item.top) == 2 for item in logprobs)
    assert all(item.chosen.text == item.top[0].text for item in logprobs), "a greedy token is the likeliest"
    assert b"".join(item.chosen.text for item in logprobs).decode() == text(chunks)


async def test_an_adapter_that_it_lacks_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(UnknownAdapterError, match=r"has no adapter 'law'; it has none"):
        await collect(engine, replace(asked(), adapter="law"))
    assert engine.stats().running + engine.stats().waiting == 0


async def test_embeddings_are_given_or_refused(engine: Engine) -> None:
    request = EmbedRequest(("a cat", "a cat", "the rate of interest"))
    if not engine.capabilities().embeddings:
        with pytest.raises(UnsupportedFeatureError):
            await engine.embed(request)
        return
    found = await engine.embed(request)
    one, same, other = found.vectors
    assert one == same != other and found.prompt_tokens >= 6
    assert sum(value * value for value in other) == pytest.approx(1.0, abs=1e-4)


async def test_steps_are_told_in_order_or_not_at_all(engine: Engine) -> None:
    before, _ = engine.iterations()
    await collect(engine, asked())
    await idle(engine)
    last, newest = engine.iterations(before)
    if last == 0:
        assert engine.iterations() == (0, ())
        return
    assert last - before == len(newest) > 0
    assert all(step.seconds > 0 and step.prefill_tokens + step.decoding > 0 for step in newest)
    assert engine.iterations(last) == (last, ())


async def test_stats_add_up(engine: Engine) -> None:
    before = engine.stats()
    usage = (await collect(engine, asked()))[-1].usage
    await idle(engine)
    after = engine.stats()
    assert after.generated_tokens - before.generated_tokens == usage.completion_tokens
    assert after.prompt_tokens - before.prompt_tokens == usage.prompt_tokens


async def test_an_urgent_call_is_answered_before_one_without_hurry(engine: Engine) -> None:
    if not engine.capabilities().priority:
        pytest.skip("the engine does not know urgency")
    order: list[str] = []

    async def ask(name: str, urgency: float, count: int) -> None:
        params = SamplingParams(max_tokens=count, ignore_eos=True)
        await collect(engine, GenerateRequest(f"{name} and", params, urgency=urgency))
        order.append(name)

    # Four run at once (`max_batch`); of those that wait, the urgent one comes last and goes first.
    busy = [asyncio.create_task(ask(f"busy {index}", 1.0, 60 + 10 * index)) for index in range(4)]
    while engine.stats().running < 4 and not any(task.done() for task in busy):
        await asyncio.sleep(0.005)
    late = [asyncio.create_task(ask(f"late {index}", float("inf"), 40)) for index in range(2)]
    await asyncio.sleep(0.05)
    await asyncio.gather(*busy, *late, asyncio.create_task(ask("urgent", 2.0, 8)))
    assert order.index("urgent") < order.index("late 0")


async def test_streams_can_be_read_from_another_loop(engine: Engine) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(text(asyncio.run(collect(engine, asked())))))
    thread.start()
    here = text(await collect(engine, asked()))
    await asyncio.to_thread(thread.join)
    assert len(found) == 1 and found[0] and here
