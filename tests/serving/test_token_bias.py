"""Penalties and biases: OpenAI's formula at every place of an answer, whatever cuts the answer into steps."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.requests import Constraint, GenerateRequest, SamplingParams
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.tokenizer import ModelTokenizer, UnknownTokenError
from agentsys.serving.torch_engine.core import Speculation
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.token_bias import TokenBias
from tests.serving.test_speculation import PROMPTS, Bench, Oracle, RandomTokens

PENALTY = st.floats(-2, 2)
SAMPLINGS = [
    SamplingParams(max_tokens=25, frequency_penalty=0.7),
    SamplingParams(max_tokens=25, presence_penalty=2.0),
    SamplingParams(max_tokens=25, presence_penalty=-2.0, frequency_penalty=-0.4),
    SamplingParams(max_tokens=25, frequency_penalty=2.0, logit_bias={7: 4.0, 8: 4.0, 9: -100.0}),
]


def penalised(logits: np.ndarray, answer: Sequence[int], params: SamplingParams) -> np.ndarray:
    """OpenAI's formula, token by token."""
    found = logits.astype(np.float64)
    for token in range(len(logits)):
        count = list(answer).count(token)
        found[token] -= count * params.frequency_penalty + (count > 0) * params.presence_penalty
        found[token] += params.logit_bias.get(token, 0.0)
    return found


def greedy(runner, prompt: Sequence[int], params: SamplingParams) -> list[int]:
    """The answer by definition, from the whole history and without any engine."""
    answer: list[int] = []
    while len(answer) < params.max_tokens:
        answer.append(int(penalised(runner.biased([*prompt, *answer]), answer, params).argmax()))
        if answer[-1] in runner.config.eos_token_ids:
            break
    return answer


@given(
    answer=st.lists(st.integers(0, 11), max_size=30),
    presence=PENALTY,
    frequency=PENALTY,
    bias=st.dictionaries(st.integers(0, 11), st.floats(-100, 100), max_size=4),
)
def test_the_bias_is_the_formula(answer: list[int], presence: float, frequency: float, bias: dict[int, float]) -> None:
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias)
    logits = np.linspace(-3, 3, 12).astype(np.float32)
    found = TokenBias.of(params, answer[:5])
    if found is None:
        assert not presence and not frequency and not bias
        return
    for token in answer[5:]:
        found.count(token)
    given_logits = logits.copy()
    assert found.applied(logits) == pytest.approx(penalised(logits, answer, params), abs=1e-4)
    assert (logits == given_logits).all(), "what the model said stays what it said"


@pytest.mark.parametrize("params", SAMPLINGS, ids=str)
@pytest.mark.parametrize("kind", ["none", "random", "oracle", "spoiled", "lookup"])
def test_greedy_tokens_equal_the_definition_whatever_drafts(
    kind: str, params: SamplingParams, scripted_runner, scripted_blocks, tiny_model_dir
) -> None:
    runner = scripted_runner(memory=2, eos_bias=1.0, kv=scripted_blocks(num_blocks=24))
    drafter = {
        "none": None,
        "random": RandomTokens(random.Random(3)),
        "oracle": Oracle(runner),
        "spoiled": Oracle(runner, wrong_at=2),
        "lookup": PromptLookupDrafter(),
    }[kind]
    bench = Bench(runner, tiny_model_dir, drafter, max_batch=2, budget=12)
    for index, prompt in enumerate(PROMPTS):
        bench.add(str(index), prompt, params, urgency=-float(index))
        bench.core.step()
    bench.run()
    for index, prompt in enumerate(PROMPTS):
        assert bench.tokens(str(index)) == greedy(runner, prompt, params)
    assert bench.core.stats().preemptions > 0, "answers have to outlive the loss of their slots"


def test_the_comparison_catches_a_count_that_is_left_out(scripted_runner, tiny_model_dir, monkeypatch) -> None:
    runner = scripted_runner(memory=2, eos_bias=1.0)
    monkeypatch.setattr(TokenBias, "count", lambda _self, _token: None)
    bench = Bench(runner, tiny_model_dir, None)
    bench.add("a", PROMPTS[0], SAMPLINGS[0])
    bench.run()
    assert bench.tokens("a") != greedy(runner, PROMPTS[0], SAMPLINGS[0])


async def answered(engine: TorchEngine, prompt: Sequence[int], constraint: Constraint | None = None, **sampling):
    request = GenerateRequest(prompt, SamplingParams(**{"max_tokens": 25} | sampling), constraint)
    chunks = [chunk async for chunk in engine.submit(request)]
    return chunks, "".join(chunk.text for chunk in chunks)


@pytest.fixture
async def engine(scripted_runner, tiny_model_dir):
    speculation = Speculation(PromptLookupDrafter(), 4, None)
    made = TorchEngine(scripted_runner(memory=2), ModelTokenizer(tiny_model_dir), name="s", speculation=speculation)
    yield made
    await made.close()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_a_grammar_wins_over_every_bias(engine, tiny_model_dir, temperature: float) -> None:
    tokenizer = ModelTokenizer(tiny_model_dir)
    allowed = {token: -100.0 for text in "ab" for token in tokenizer.encode(text)}
    forbidden = {token: 100.0 for text in "xyz" for token in tokenizer.encode(text)}
    sampling = {"temperature": temperature, "seed": 4, "frequency_penalty": 2.0}
    _, text = await answered(engine, [5, 6], Constraint("regex", "[ab]{8}"), logit_bias=allowed | forbidden, **sampling)
    assert len(text) == 8 and set(text) <= {"a", "b"}


async def test_logprobs_are_the_models_own_under_penalties_too(engine, scripted_runner) -> None:
    chunks, _ = await answered(engine, [5, 6, 7], logprobs=1, logit_bias={40: 100.0}, max_tokens=6)
    found = [item for chunk in chunks for item in chunk.logprobs]
    assert [item.chosen.token_id for item in found] == [40] * 6
    own = scripted_runner(memory=2).biased([5, 6, 7]).astype(np.float64)
    assert found[0].chosen.logprob == pytest.approx(own[40] - np.log(np.exp(own).sum()), abs=1e-5)


async def test_tokens_that_the_model_does_not_have_are_refused(engine) -> None:
    for token in (-1, 320):
        with pytest.raises(UnknownTokenError, match=f"from 0 to 319, got {token}"):
            await answered(engine, [5], logit_bias={token: 1.0})


@pytest.mark.parametrize(
    "fields",
    [
        {"presence_penalty": 2.1},
        {"frequency_penalty": -2.1},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {3: 101.0}},
    ],
)
def test_what_is_out_of_range_is_named(fields) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))}.* must be from -"):
        SamplingParams(**fields)
