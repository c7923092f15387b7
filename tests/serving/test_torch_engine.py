"""The engine with its thread, over a scripted model."""

from __future__ import annotations

import asyncio
import json
import random
import threading

import pytest

from agentsys.blackboard.labels import Label, Readers
from agentsys.errors import ServingError
from agentsys.serving.constraints import ConstraintError
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import (
    DuplicateRequestError,
    EngineClosedError,
    EngineFailedError,
    RequestTooLongError,
)
from agentsys.serving.requests import (
    Chunk,
    Constraint,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    Message,
    SamplingParams,
)
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.tokenizer import ModelTokenizer, PromptError, UnknownTokenError
from agentsys.serving.torch_engine.active_request import ActiveRequest
from agentsys.serving.torch_engine.core import Speculation
from agentsys.serving.torch_engine.engine import TorchEngine

PROMPT = [5, 6, 7, 8, 9]


@pytest.fixture
async def start(scripted_runner, tiny_model_dir):
    """Return a function that starts an engine over a scripted runner and closes it at the end."""
    engines = []

    def make(runner=None, *, lookup: bool = False, **options) -> TorchEngine:
        speculation = Speculation(PromptLookupDrafter(), 4, None) if lookup else None
        tokenizer = ModelTokenizer(tiny_model_dir)
        runner = runner or scripted_runner()
        engines.append(TorchEngine(runner, tokenizer, name="scripted", speculation=speculation, **options))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


def request(prompt=PROMPT, *, max_tokens: int = 20, **options) -> GenerateRequest:
    return GenerateRequest(prompt, SamplingParams(max_tokens=max_tokens), **options)


async def collect(engine: TorchEngine, asked: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(asked)]


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


async def test_it_is_an_engine_and_streams_the_answer(start, scripted_runner) -> None:
    runner = scripted_runner()
    engine = start(runner)
    assert isinstance(engine, Engine)
    chunks = await collect(engine, request())
    assert tokens(chunks) == runner.greedy(PROMPT, 20)
    assert len(chunks) > 3
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    usage, timings = chunks[-1].usage, chunks[-1].timings
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 20)
    assert 0 < timings.queued <= timings.first_token <= timings.total


async def test_totals_never_go_back_while_a_request_ends(start, monkeypatch) -> None:
    engine = start()
    usage, told, readers = ActiveRequest.usage, [], []

    def usage_at_the_end(self):
        if not readers and threading.current_thread().name.startswith("torch-engine"):
            readers.append(threading.Thread(target=lambda: told.append(engine.stats().generated_tokens)))
            readers[0].start()
            readers[0].join(0.2)
        return usage(self)

    monkeypatch.setattr(ActiveRequest, "usage", usage_at_the_end)
    await collect(engine, request())
    await asyncio.to_thread(readers[0].join, 20)
    assert told == [20]


async def test_many_at_once_get_what_each_gets_alone(start, scripted_runner) -> None:
    runner = scripted_runner(eos_bias=1.5)
    engine = start(runner, max_batch=3, max_step_tokens=12)
    prompts = [[10 + index] * (1 + 3 * index) for index in range(9)]
    answers = await asyncio.gather(*(collect(engine, request(prompt)) for prompt in prompts))
    assert [tokens(chunks) for chunks in answers] == [runner.greedy(prompt, 20) for prompt in prompts]
    assert engine.stats().kv_used_blocks == 0


async def test_sampled_answers_do_not_depend_on_neighbours_or_drafts(start, scripted_runner) -> None:
    sampling = SamplingParams(max_tokens=20, temperature=1.0, top_p=0.9, seed=99)
    alone = await collect(start(scripted_runner(memory=1)), GenerateRequest(PROMPT, sampling))
    crowded = start(scripted_runner(memory=1), lookup=True, max_batch=4)
    others = [asyncio.create_task(collect(crowded, request([30 + i], max_tokens=40))) for i in range(6)]
    assert tokens(await collect(crowded, GenerateRequest(PROMPT, sampling))) == tokens(alone)
    await asyncio.gather(*others)


async def test_the_prefix_is_reused_within_readers_and_not_across(start) -> None:
    engine = start()
    ann, bob = Label(readers=Readers.of("user:ann")), Label(readers=Readers.of("user:bob"))
    cached = []
    for label in (ann, bob, ann, bob):
        chunks = await collect(engine, request(list(range(10, 30)), max_tokens=2, label=label))
        cached.append(chunks[-1].usage.cached_tokens)
    assert cached == [0, 0, 16, 16]


async def test_closing_the_iterator_frees_the_request(start, until) -> None:
    engine = start()
    stream = engine.submit(request(max_tokens=400))
    await anext(stream)
    await stream.aclose()
    await asyncio.to_thread(until, lambda: engine.stats().running + engine.stats().kv_used_blocks == 0)


async def test_abort_ends_the_stream_with_what_was_generated(start) -> None:
    engine = start()
    chunks: list[Chunk] = []
    async for chunk in engine.submit(request(max_tokens=400, request_id="r")):
        chunks.append(chunk)
        if len(chunks) == 2:
            engine.abort("r")
    assert chunks[-1].finish_reason is FinishReason.ABORTED
    assert chunks[-1].usage.completion_tokens == len(tokens(chunks)) < 400
    engine.abort("unknown")
    engine.rekey("unknown", 1.0)


async def test_rekey_lets_a_waiting_request_overtake(start, scripted_runner) -> None:
    engine = start(scripted_runner(), max_batch=1)
    order: list[str] = []

    async def ask(name: str, urgency: float, count: int = 20) -> None:
        await collect(engine, request([50 + ord(name[0])], max_tokens=count, urgency=urgency, request_id=name))
        order.append(name)

    first = asyncio.create_task(ask("a", 0.0, count=250))  # it must last until the others wait
    rest = [asyncio.create_task(ask("b", 5.0)), asyncio.create_task(ask("c", 9.0))]
    while engine.stats().waiting < 2:
        await asyncio.sleep(0)
    engine.rekey("c", 1.0)
    await asyncio.gather(first, *rest)
    assert order == ["a", "c", "b"]


async def test_an_urgent_request_preempts_and_both_answers_stay_right(start, scripted_runner) -> None:
    runner = scripted_runner()
    engine = start(runner, max_batch=1)
    slow = asyncio.create_task(collect(engine, request(max_tokens=200, urgency=9.0)))
    while engine.stats().generated_tokens < 3:
        await asyncio.sleep(0)
    fast = await collect(engine, request([70, 71], max_tokens=5, urgency=1.0))
    assert not slow.done()
    chunks = await slow
    assert tokens(fast) == runner.greedy([70, 71], 5)
    assert tokens(chunks) == runner.greedy(PROMPT, 200)
    assert chunks[-1].usage.preemptions == engine.stats().preemptions == 1


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"kind": {"enum": ["alpha", "beta"]}, "sure": {"type": "boolean"}},
        "required": ["kind", "sure"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_a_constrained_answer_holds_the_grammar_with_and_without_drafts(
    start, scripted_runner, temperature
) -> None:
    answers = []
    for lookup in (False, True):
        engine = start(scripted_runner(), lookup=lookup)
        sampling = SamplingParams(max_tokens=200, temperature=temperature, seed=4)
        chunks = await collect(engine, GenerateRequest(PROMPT, sampling, Constraint("json_schema", SCHEMA)))
        assert chunks[-1].finish_reason is FinishReason.STOP
        answers.append(tokens(chunks))
        value = json.loads("".join(chunk.text for chunk in chunks))
        assert value["kind"] in ("alpha", "beta") and isinstance(value["sure"], bool)
    assert answers[0] == answers[1]
    assert chunks[-1].usage.accepted_tokens > 5, "forced tokens come for free"


async def test_faulty_requests_fail_alone(start, scripted_runner) -> None:
    runner = scripted_runner()
    engine = start(runner)
    good = asyncio.create_task(collect(engine, request()))
    for error, asked in [
        (RequestTooLongError, request([5] * 300)),
        (ConstraintError, request(constraint=Constraint("regex", "("))),
        (PromptError, request("")),
    ]:
        with pytest.raises(error) as caught:
            await collect(engine, asked)
        assert caught.value.code.startswith("AGS-04")
    assert tokens(await good) == runner.greedy(PROMPT, 20)


async def test_tokens_that_the_model_has_no_embedding_for_are_refused(start, scripted_runner, scripted_config) -> None:
    engine = start(scripted_runner(config=scripted_config(vocab_size=319)))
    with pytest.raises(PromptError, match="0 to 318"):
        await collect(engine, request([5, 319]))
    with pytest.raises(PromptError, match="0 to 318"):
        await engine.embed(EmbedRequest(([5, 319],)))
    biased = SamplingParams(max_tokens=2, logit_bias={319: 1.0})
    with pytest.raises(UnknownTokenError, match="0 to 318"):
        await collect(engine, GenerateRequest(PROMPT, biased))
    assert len(tokens(await collect(engine, request([5, 318])))) == 20


async def test_the_answer_stops_at_the_end_of_the_context(start, scripted_runner, scripted_config) -> None:
    engine = start(scripted_runner(config=scripted_config(context_length=12)))
    chunks = await collect(engine, request(max_tokens=50))
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].usage.completion_tokens == 7


async def test_an_end_token_that_is_not_marked_special_stays_out_of_the_text(
    start, scripted_runner, scripted_config, tiny_model_dir
) -> None:
    answer = scripted_runner().greedy(PROMPT, 6)
    end = next(token for token in answer[1:] if ModelTokenizer(tiny_model_dir).decode([token]))
    engine = start(scripted_runner(config=scripted_config(eos_token_ids=frozenset({end}))))
    chunks = await collect(engine, request())
    given = tokens(chunks)
    assert given[-1] == end and chunks[-1].finish_reason is FinishReason.STOP
    assert "".join(chunk.text for chunk in chunks) == ModelTokenizer(tiny_model_dir).decode(given[:-1])


async def test_an_id_in_use_is_refused_and_its_owner_undisturbed(start) -> None:
    engine = start()
    first = engine.submit(request(max_tokens=300, request_id="same"))
    await anext(first)
    with pytest.raises(DuplicateRequestError):
        await collect(engine, request(request_id="same"))
    assert (await anext(first)).finish_reason is None
    await first.aclose()


async def test_a_failed_step_ends_every_stream_and_the_engine(start, scripted_runner) -> None:
    engine = start(scripted_runner(fail_at=3))
    results = await asyncio.gather(*(collect(engine, request([40 + i])) for i in range(3)), return_exceptions=True)
    assert all(isinstance(result, EngineFailedError) for result in results)
    assert "planted failure" in str(results[0])
    with pytest.raises(EngineFailedError):
        await collect(engine, request())


async def test_a_closed_engine_refuses_and_ends_what_ran(start) -> None:
    engine = start()
    stream = engine.submit(request(max_tokens=400))
    await anext(stream)
    await engine.close()
    with pytest.raises(EngineClosedError):
        [chunk async for chunk in stream]
    with pytest.raises(ServingError):
        await collect(engine, request())
    assert engine.stats().running == 0
    await engine.close()


def test_one_engine_serves_several_event_loops(scripted_runner, tiny_model_dir) -> None:
    runner = scripted_runner()
    engine = TorchEngine(runner, ModelTokenizer(tiny_model_dir), name="scripted")
    answers = [asyncio.run(collect(engine, request([index + 20]))) for index in range(2)]
    assert [tokens(answer) for answer in answers] == [runner.greedy([index + 20], 20) for index in range(2)]
    asyncio.run(engine.close())


async def test_random_load_with_everything_on_gives_the_defined_answers(
    start, scripted_runner, scripted_blocks
) -> None:
    chance = random.Random(17)
    runner = scripted_runner(kv=scripted_blocks(num_blocks=20), memory=2, eos_bias=1.0)
    engine = start(runner, lookup=True, max_batch=3, max_step_tokens=9)

    async def ask(prompt: list[int]) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        chunks = await collect(engine, request(prompt, max_tokens=25, urgency=float(chance.randint(0, 3))))
        assert tokens(chunks) == runner.greedy(prompt, 25)

    await asyncio.gather(*(ask([chance.choice([5, 6, 7]) for _ in range(chance.randint(1, 30))]) for _ in range(40)))
    assert engine.stats().kv_used_blocks == 0
    assert engine.stats().preemptions > 0


@pytest.mark.model
async def test_real_weights_speculation_and_grammar_change_no_token(smollm2_dir) -> None:
    """Greedy answers of the default format, with and without drafts, alone and together."""
    prompts = [
        [Message("user", "Repeat exactly: the cat sat on the mat, the cat sat on the mat, the cat sat on the mat.")],
        [Message("user", "List the numbers from one to ten, one a line.")],
        [Message("user", "Translate to French: good morning, good evening, good night.")],
    ]
    constraint = Constraint("json_schema", SCHEMA)
    answers = []
    for drafter in (None, "auto"):
        engine = TorchEngine.load(smollm2_dir, threads=1, kv_cache_bytes=2**26, drafter=drafter)
        asked = [GenerateRequest(prompt, SamplingParams(max_tokens=40)) for prompt in prompts]
        asked.append(GenerateRequest(prompts[0], SamplingParams(max_tokens=40), constraint))
        together = await asyncio.gather(*(collect(engine, item) for item in asked))
        alone = await collect(engine, GenerateRequest(prompts[0], SamplingParams(max_tokens=40)))
        assert tokens(alone) == tokens(together[0])
        assert json.loads("".join(chunk.text for chunk in together[-1]))["kind"] in ("alpha", "beta")
        answers.append([tokens(chunks) for chunks in together])
        accepted = engine.stats().accepted_tokens
        await engine.close()
    assert answers[0] == answers[1]
    assert accepted > 0
