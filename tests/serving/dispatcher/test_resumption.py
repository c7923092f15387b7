"""An answer that changes engines is the answer that one engine gives, cut wherever it may be."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys.serving.dispatcher.errors import AnswerInterruptedError
from agentsys.serving.dispatcher.resumption import Shown, continuable, continuation, movable
from agentsys.serving.requests import (
    Chunk,
    Constraint,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine


class TextOnly:
    """An engine that tells no token ids, as remote servers do."""


@pytest.fixture
def engines(scripted_runner, tiny_model_dir):
    made = [TorchEngine(scripted_runner(eos_bias=0.5), ModelTokenizer(tiny_model_dir), name="scripted") for _ in "ab"]
    yield made
    for engine in made:
        asyncio.run(engine.close())


async def whole(engine: TorchEngine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(request)]


async def interrupted(first: TorchEngine, second: TorchEngine, request: GenerateRequest, after: int) -> list[Chunk]:
    shown, chunks = Shown(), []
    stream = first.submit(request)
    async for chunk in stream:
        if len(chunks) == after or chunk.finish_reason is not None:
            break
        shown.add(chunk)
        chunks.append(chunk)
    await stream.aclose()
    rest, transform = continuation(request, shown, second)
    stream = second.submit(rest)
    async for chunk in stream:
        chunks.append(transform(chunk))
        if chunks[-1].finish_reason is not None:
            break
    await stream.aclose()
    return chunks


def summary(chunks: list[Chunk]) -> tuple[str, list[int], FinishReason]:
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    return "".join(chunk.text for chunk in chunks), tokens, chunks[-1].finish_reason


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.lists(st.integers(3, 258), min_size=1, max_size=6),
    after=st.integers(0, 20),
    temperature=st.sampled_from([0.0, 0.8]),
    stop=st.sampled_from([(), ("a",), ("\x01", "zz"), ("é",)]),
    ignore_eos=st.booleans(),
    shaping=st.sampled_from([{}, {"frequency_penalty": 1.5, "presence_penalty": 0.5}, {"logit_bias": {70: 3.0}}]),
)
def test_cut_anywhere_an_answer_is_the_same(engines, prompt, after, temperature, stop, ignore_eos, shaping) -> None:
    seed = 7 if temperature else None
    sampling = SamplingParams(24, temperature, seed=seed, stop=stop, ignore_eos=ignore_eos, **shaping)
    request = GenerateRequest(prompt, sampling)
    assert all(movable(request, engine) for engine in engines)
    expected = asyncio.run(whole(engines[0], request))
    found = asyncio.run(interrupted(engines[0], engines[1], request, after))
    assert summary(found) == summary(expected)
    if found[-1].usage is not None:
        counts = [(chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) for chunks in (found, expected)]
        assert counts[0] == counts[1]


def test_a_repeated_answer_leaves_out_what_was_shown() -> None:
    shown = Shown()
    for text in ("Hel", "lo"):
        shown.add(Chunk(text))
    request = GenerateRequest([1], SamplingParams())
    again, transform = continuation(request, shown, TextOnly())
    assert again is request
    texts = [transform(Chunk(text)).text for text in ("H", "ello w", "orld")]
    assert texts == ["", " w", "orld"]


def test_a_repeated_answer_tells_no_log_probability_twice() -> None:
    """Of engines that tell token ids and of those that tell none, however the repetition is cut."""
    told = [TokenLogprobs(TokenLogprob(None, letter.encode(), -1.0 - place)) for place, letter in enumerate("abcde")]
    for ids in ((), (5, 6)):
        shown = Shown()
        shown.add(Chunk("ab", ids, logprobs=tuple(told[:2])))
        _, transform = continuation(GenerateRequest([1], SamplingParams(logprobs=0)), shown, TextOnly())
        again = [("a", told[:1]), ("bcd", told[1:4]), ("", []), ("e", told[4:])]
        chunks = [transform(Chunk(text, logprobs=tuple(each))) for text, each in again]
        assert [chunk.text for chunk in chunks] == ["", "cd", "", "e"]
        assert [item for chunk in chunks for item in chunk.logprobs] == told[2:]


def test_a_repetition_that_says_otherwise_is_no_continuation() -> None:
    shown = Shown()
    shown.add(Chunk("Hello"))
    _, transform = continuation(GenerateRequest([1], SamplingParams()), shown, TextOnly())
    with pytest.raises(AnswerInterruptedError):
        transform(Chunk("Hey"))
    _, transform = continuation(GenerateRequest([1], SamplingParams()), shown, TextOnly())
    with pytest.raises(AnswerInterruptedError):
        transform(Chunk("Hel", finish_reason=FinishReason.STOP))


def test_raw_text_goes_on_as_text_and_is_counted_once() -> None:
    shown = Shown()
    for text in (" a", " b"):
        shown.add(Chunk(text))
    request = GenerateRequest("Letters:", SamplingParams(max_tokens=10, temperature=1.0))
    rest, transform = continuation(request, shown, TextOnly())
    assert (rest.prompt, rest.sampling.max_tokens) == ("Letters: a b", 8)
    last = transform(Chunk(" c", finish_reason=FinishReason.LENGTH, usage=Usage(6, 5, 8)))
    assert last.usage == Usage(4, 4, 10)


def test_a_penalised_answer_goes_on_as_tokens_that_count_and_never_as_text(engines) -> None:
    sampling = SamplingParams(max_tokens=10, temperature=1.0, frequency_penalty=1.0)
    request, shown = GenerateRequest("Letters:", sampling), Shown()
    shown.add(Chunk(" a", (40, 41)))
    rest, _ = continuation(request, shown, engines[0])
    assert rest.prompt[-2:] == [40, 41] and rest.answered == 2
    with pytest.raises(AnswerInterruptedError):
        continuation(request, shown, TextOnly())
    assert not continuable(request, shown, [TextOnly()])
    assert continuable(request, shown, [engines[0]])


def test_what_an_engine_without_token_ids_began_is_not_cut_off(engines) -> None:
    request, shown = GenerateRequest("Letters:", SamplingParams(max_tokens=10, temperature=1.0)), Shown()
    shown.add(Chunk(" a"))
    shown.add(Chunk(" b", (40,)))
    rest, _ = continuation(request, shown, engines[0])
    assert rest.prompt == "Letters: a b"


def test_a_sampled_chat_that_was_shown_in_part_cannot_be_continued_as_text() -> None:
    shown = Shown()
    shown.add(Chunk("Hello"))
    with pytest.raises(AnswerInterruptedError):
        continuation(GenerateRequest([1], SamplingParams(temperature=1.0)), shown, TextOnly())


def test_what_a_grammar_holds_or_a_free_draw_made_does_not_move(engines) -> None:
    free = GenerateRequest([1], SamplingParams(temperature=1.0))
    held = GenerateRequest([1], SamplingParams(), Constraint("regex", "a+"))
    assert not any(movable(request, engines[0]) for request in (free, held))
    assert not movable(GenerateRequest([1]), TextOnly())
