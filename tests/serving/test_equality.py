"""Greedy answers in float32 are token for token those of transformers, alone, in batches and with speculation.

All fifty prompts are asked where slow tests run, every fourth elsewhere.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentsys.serving.requests import FinishReason, GenerateRequest, Message, SamplingParams
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.core import Speculation
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.limits import Tuning
from agentsys.serving.torch_engine.model_runner import ModelRunner

pytestmark = [pytest.mark.model, pytest.mark.timeout(1200)]

NEW_TOKENS = 24
SLOTS = 3
PROMPTS = json.loads((Path(__file__).parent / "equality_prompts.json").read_text(encoding="utf-8"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(slice(1, None, 4), id="every fourth"),
        pytest.param(slice(None), id="all", marks=pytest.mark.slow),
    ],
)
def prompts(request: pytest.FixtureRequest, smollm2_dir: Path) -> list[list[int]]:
    tokenizer = ModelTokenizer(smollm2_dir)
    return [
        tokenizer.encode([Message("user", item["text"])] if item["kind"] == "chat" else item["text"])
        for item in PROMPTS[request.param]
    ]


@pytest.fixture(scope="module")
def expected(smollm2_dir: Path, prompts: list[list[int]]) -> list[list[int]]:
    """What ``generate`` of transformers answers, each prompt alone."""
    # Several OpenMP threads stall each other for seconds when another process holds a core; one thread never does.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    answers = []
    with torch.inference_mode():
        for prompt in prompts:
            tokens = torch.tensor([prompt])
            whole = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW_TOKENS, do_sample=False
            )
            answers.append(whole[0, len(prompt) :].tolist())
    torch.set_num_threads(threads)
    return answers


@pytest.fixture(scope="module")
def runner(smollm2_dir: Path) -> Iterator[ModelRunner]:
    yield ModelRunner.load(smollm2_dir, weight_format="float32", threads=2, kv_cache_bytes=256 * 2**20)


async def answers(engine: TorchEngine, prompts: Sequence[Sequence[int]], concurrency: int) -> list[list[int]]:
    slots = asyncio.Semaphore(concurrency)

    async def answer(prompt: Sequence[int]) -> list[int]:
        async with slots:
            request = GenerateRequest(prompt, SamplingParams(max_tokens=NEW_TOKENS))
            return [token async for chunk in engine.submit(request) for token in chunk.token_ids]

    return await asyncio.gather(*(answer(prompt) for prompt in prompts))


def test_the_prompts_are_fifty_and_of_mixed_length(prompts: list[list[int]]) -> None:
    assert len(PROMPTS) == 50
    assert min(map(len, prompts)) < 8
    assert max(map(len, prompts)) >= 400


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "speculative"])
@pytest.mark.parametrize("batch", [1, 8])
async def test_greedy_answers_equal_those_of_transformers(
    runner: ModelRunner,
    smollm2_dir: Path,
    prompts: list[list[int]],
    expected: list[list[int]],
    batch: int,
    drafts: bool,
) -> None:
    engine = TorchEngine(
        runner,
        ModelTokenizer(smollm2_dir),
        name="smollm2",
        max_batch=batch,
        speculation=Speculation(PromptLookupDrafter(), 6) if drafts else None,
    )
    try:
        found = await answers(engine, prompts, batch)
        drafted = engine.stats().drafted_tokens
    finally:
        await engine.close()
    assert found == expected
    assert (drafted > 0) == drafts


async def migrated(engine: TorchEngine, prompt: Sequence[int], after: int) -> list[int]:
    """Answer as a dispatcher does that moves a call: abort, and send prompt and partial answer on as tokens."""
    tokens: list[int] = []
    request = GenerateRequest(prompt, SamplingParams(max_tokens=NEW_TOKENS))
    reason = None
    async for chunk in engine.submit(request):
        tokens += chunk.token_ids
        reason = chunk.finish_reason
        if len(tokens) >= after:
            engine.abort(request.request_id)
    if reason is not FinishReason.ABORTED or len(tokens) == NEW_TOKENS:
        return tokens
    rest = GenerateRequest([*prompt, *tokens], SamplingParams(max_tokens=NEW_TOKENS - len(tokens)))
    return tokens + [token async for chunk in engine.submit(rest) for token in chunk.token_ids]


async def test_scheduling_leaves_the_answers_of_transformers_as_they_are(
    runner: ModelRunner, smollm2_dir: Path, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """Preempted at the slots, held back for haste, prefilled in small chunks and migrated in the middle."""
    engine = TorchEngine(
        runner,
        ModelTokenizer(smollm2_dir),
        name="smollm2",
        max_batch=SLOTS,
        max_step_tokens=32,
        speculation=Speculation(PromptLookupDrafter(), 4),
        tuning=Tuning(prefill_chunk=5, preemption_margin=0.0, preemption_quantum=1, slowdown=1.2),
    )
    some = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)[-12:]
    running = asyncio.Event()

    async def hurried(place: int) -> list[int]:
        """The later its place, the more urgent; past its latest start, unless it is among the first."""
        urgency = (1e10 if place < SLOTS else 1e9) - place
        tokens: list[int] = []
        async for chunk in engine.submit(
            GenerateRequest(prompts[some[place]], SamplingParams(max_tokens=NEW_TOKENS), urgency=urgency)
        ):
            running.set()
            tokens += chunk.token_ids
        return tokens

    async def late(place: int) -> list[int]:
        await running.wait()
        return await (hurried(place) if place % 2 else migrated(engine, prompts[some[place]], after=1 + place))

    # The longest prompts hold the slots when the rest come, so one at least is preempted, however slow the machine.
    found = await asyncio.gather(*(hurried(place) if place < SLOTS else late(place) for place in range(len(some))))
    stats = engine.stats()
    await engine.close()
    assert found == [expected[index] for index in some]
    assert stats.preemptions > 0
