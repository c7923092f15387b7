"""Logprobs are the model's own, one for each token, and drafts change none of them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from agentsys.serving.client import ServingClient
from agentsys.serving.requests import Constraint, GenerateRequest, SamplingParams, TokenLogprobs
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.core import Speculation
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.logprobs import LogprobReader

PROMPT = [5, 6, 7, 5, 6, 7, 5]


@pytest.fixture
async def start(scripted_runner, tiny_model_dir) -> AsyncIterator[Callable[..., TorchEngine]]:
    engines: list[TorchEngine] = []

    def make(*, lookup: bool = False, **runner) -> TorchEngine:
        speculation = Speculation(PromptLookupDrafter(), 4, None) if lookup else None
        tokenizer = ModelTokenizer(tiny_model_dir)
        engines.append(TorchEngine(scripted_runner(**runner), tokenizer, name="scripted", speculation=speculation))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


async def asked(engine: TorchEngine, constraint: Constraint | None = None, **sampling):
    params = SamplingParams(**{"max_tokens": 25, "logprobs": 3} | sampling)
    request = GenerateRequest(PROMPT, params, constraint)
    return await ServingClient({"m": engine}, "m").generate(request)


def test_a_row_is_read_as_a_softmax() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32)) + np.float32(50.0)
    read = LogprobReader(2, lambda token: bytes([token])).read(logits, 0)
    assert read.chosen.logprob == pytest.approx(math.log(0.1), abs=1e-5)
    assert [(item.token_id, item.text) for item in read.top] == [(1, b"\x01"), (3, b"\x03")]
    assert LogprobReader(0, lambda _: b"").read(logits, 1).top == ()
    assert len(LogprobReader(20, lambda _: b"").read(logits, 1).top) == 4, "a small vocabulary has no more"


async def test_each_token_has_its_logprob_and_the_greedy_one_is_the_likeliest(start, scripted_runner) -> None:
    answer = await asked(start())
    assert [item.chosen.token_id for item in answer.logprobs] == list(answer.token_ids)
    runner, history = scripted_runner(), list(PROMPT)
    for item in answer.logprobs:
        logits = runner.biased(history).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert item.top[0] == item.chosen
        assert [top.token_id for top in item.top] == list(np.argsort(-expected)[:3])
        assert item.chosen.logprob == pytest.approx(expected[item.chosen.token_id], abs=1e-6)
        history.append(item.chosen.token_id)


async def test_the_bytes_of_the_tokens_make_the_text(start, tiny_model_dir) -> None:
    answer = await asked(start())
    said = b"".join(item.chosen.text for item in answer.logprobs)
    tokenizer = ModelTokenizer(tiny_model_dir)
    plain = [item for item in answer.logprobs if tokenizer.decode([item.chosen.token_id])]
    assert said.decode(errors="replace") == answer.text and plain


async def test_nothing_is_given_unasked(start) -> None:
    assert (await asked(start(), logprobs=None)).logprobs == ()


@pytest.mark.parametrize("temperature", [0.0, 1.2])
async def test_drafts_change_no_logprob(start, temperature: float) -> None:
    found: list[tuple[TokenLogprobs, ...]] = []
    for lookup in (False, True):
        engine = start(lookup=lookup, memory=1)
        found.append((await asked(engine, temperature=temperature, seed=3, max_tokens=90)).logprobs)
    assert found[0] == found[1]
    assert temperature or engine.stats().accepted_tokens > 0


async def test_a_grammar_narrows_the_choice_and_not_the_logprobs(start) -> None:
    answer = await asked(start(), Constraint("regex", "[ab]{8}"))
    assert any(item.chosen not in item.top for item in answer.logprobs)


@pytest.mark.parametrize("count", [-1, 21])
def test_more_than_may_be_asked_for_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="logprobs must be from 0 to 20"):
        SamplingParams(logprobs=count)


@pytest.mark.model
async def test_drafts_change_no_logprob_with_real_weights(smollm2_dir) -> None:
    found = []
    for drafter in (None, PromptLookupDrafter()):
        engine = TorchEngine.load(smollm2_dir, threads=1, kv_cache_bytes=2**25, drafter=drafter)
        prompt = "one two three four one two three four one two three"
        request = GenerateRequest(prompt, SamplingParams(max_tokens=12, logprobs=2))
        found.append(await ServingClient({"m": engine}, "m").generate(request))
        await engine.close()
    assert found[0].logprobs == found[1].logprobs
    assert found[1].usage.accepted_tokens > 0
