"""A request's logits are the same bits alone, in random batches, chunked, verified, preempted and resumed."""

import asyncio
import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agentsys.serving.requests import GenerateRequest, SamplingParams
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine import kernels
from agentsys.serving.torch_engine.core import Speculation
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.kv_cache import KVCache
from agentsys.serving.torch_engine.limits import ADAPTIVE, Tuning
from agentsys.serving.torch_engine.model_runner import ModelRunner, SequenceSlice
from agentsys.serving.torch_engine.weight_formats import DEFAULT_WEIGHT_FORMAT

Step = Callable[[Sequence[SequenceSlice]], list[torch.Tensor]]


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=80,
        intermediate_size=144,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Trial:
    """Feeds one sequence through many random batches and compares each row with the sequence processed alone."""

    def __init__(self, step: Step, kv: KVCache, vocab_size: int, length: int, seed: int) -> None:
        self._step = step
        self._kv = kv
        self._random = random.Random(seed)
        self._vocab_size = vocab_size
        self.tokens = self._some_tokens(length)
        self._expected = self._alone()
        self._done = 0
        self._table: list[int] = []

    def _some_tokens(self, count: int) -> list[int]:
        return [self._random.randrange(self._vocab_size) for _ in range(count)]

    def _alone(self) -> torch.Tensor:
        table = list(range(-(-len(self.tokens) // self._kv.block_size)))
        return self._step([SequenceSlice(self.tokens, 0, table, 0)])[0].clone()

    def run(self, batches: int) -> int:
        """Return the number of batches that gave any other bits."""
        return sum(not self._batch() for _ in range(batches))

    def _batch(self) -> bool:
        free = self._random.sample(range(self._kv.num_blocks), self._kv.num_blocks)
        if self._done == len(self.tokens) or self._random.random() < 0.1:
            # Finished, or preempted: recompute from the start in other blocks.
            self._done = 0
        if self._done == 0:
            needed = -(-(len(self.tokens) + 8) // self._kv.block_size)
            self._table = free[:needed]
        free = [block for block in free if block not in self._table]
        count = min(len(self.tokens) - self._done, self._random.choice((1, 1, 2, 3, 5, 8, 17, 40)))
        fed = self.tokens[self._done : self._done + count]
        # Drafted tokens that turn out wrong follow; the next batch overwrites them.
        target = SequenceSlice(fed + self._some_tokens(self._random.randrange(5)), self._done, self._table, 0)
        batch = self._neighbours(free)
        place = self._random.randint(0, len(batch))
        batch.insert(place, target)
        logits = self._step(batch)[place][:count]
        expected = self._expected[self._done : self._done + count]
        self._done += count
        return torch.equal(logits, expected)

    def _neighbours(self, free: list[int]) -> list[SequenceSlice]:
        slices = []
        for _ in range(self._random.randrange(8)):
            count = self._random.choice((1, 1, 1, 4, 20))
            needed = -(-count // self._kv.block_size)
            table, free = free[:needed], free[needed:]
            slices.append(SequenceSlice(self._some_tokens(count), 0, table, self._random.randint(0, count)))
        return slices


def runner_of(folder: Path, weight_format: str, *, native: bool = True, threads: int = 2) -> ModelRunner:
    return ModelRunner.load(
        folder, weight_format=weight_format, native=native, threads=threads, kv_cache_bytes=64 * 2**20
    )


def trial_of(runner: ModelRunner, length: int, seed: int) -> Trial:
    return Trial(runner.step, runner.kv, runner.config.vocab_size, length, seed)


@pytest.mark.parametrize(
    ("weight_format", "native", "batches"),
    [("float32", True, 200), ("bfloat16", True, 200), ("int8", True, 200), ("int8", False, 30)],
)
def test_tiny_model_gives_the_same_bits_in_random_batches(
    tiny_weights: Path, weight_format: str, native: bool, batches: int
) -> None:
    if native and not kernels.available():
        pytest.skip(f"no native kernels: {kernels.kernels().reason}")
    runner = runner_of(tiny_weights, weight_format, native=native)
    assert runner.batch_invariant
    assert trial_of(runner, length=70, seed=1).run(batches) == 0


def test_thread_count_does_not_change_bits(tiny_weights: Path) -> None:
    piece = [SequenceSlice(list(range(60)), 0, [3, 1, 4, 0], 0)]
    one, three = (runner_of(tiny_weights, DEFAULT_WEIGHT_FORMAT, threads=threads).step(piece)[0] for threads in (1, 3))
    assert torch.equal(one, three)


def test_the_comparison_catches_a_planted_dependence_on_the_batch(tiny_weights: Path) -> None:
    runner = runner_of(tiny_weights, DEFAULT_WEIGHT_FORMAT)

    def leaky(batch: Sequence[SequenceSlice]) -> list[torch.Tensor]:
        return [logits + 1e-5 * (len(batch) > 6) for logits in runner.step(batch)]

    assert Trial(leaky, runner.kv, runner.config.vocab_size, 70, seed=1).run(50) > 0


@pytest.mark.model
def test_default_format_gives_the_same_bits_in_200_random_batches_with_real_weights(smollm2_dir: Path) -> None:
    runner = runner_of(smollm2_dir, DEFAULT_WEIGHT_FORMAT)
    assert trial_of(runner, length=90, seed=2).run(200) == 0


@pytest.mark.model
async def test_answers_survive_neighbours_chunking_speculation_and_preemption(smollm2_dir: Path) -> None:
    runner = ModelRunner.load(smollm2_dir, weight_format=DEFAULT_WEIGHT_FORMAT, threads=2, kv_cache_bytes=8 * 2**20)
    tokenizer = ModelTokenizer(smollm2_dir)

    async def answer(engine: TorchEngine, text: str, urgency: float) -> list[int]:
        request = GenerateRequest(text, SamplingParams(max_tokens=40, ignore_eos=True), urgency=urgency)
        return [token async for chunk in engine.submit(request) for token in chunk.token_ids]

    target = "Once upon a time there was a fox who wanted to sail across the sea. The fox"
    alone = TorchEngine(runner, tokenizer, name="alone", max_batch=1)
    expected = await answer(alone, target, 5.0)
    await alone.close()

    crowded = TorchEngine(
        runner,
        tokenizer,
        name="crowded",
        max_batch=8,
        max_step_tokens=24,
        speculation=Speculation(PromptLookupDrafter(), 5),
    )
    others = [answer(crowded, f"Number {index}: " + "tell me more " * 5 * index, float(index)) for index in range(9)]
    found, *_ = await asyncio.gather(answer(crowded, target, 5.0), *others)
    preemptions = crowded.stats().preemptions
    await crowded.close()
    assert found == expected
    assert preemptions > 0


@pytest.mark.model
@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(
    "tuning", [ADAPTIVE, Tuning(prefill_chunk=3, preemption_quantum=0, slowdown=1.0)], ids=["default", "tight"]
)
async def test_neither_bounds_nor_concurrency_change_an_answer(
    smollm2_dir: Path, concurrency: int, tuning: Tuning
) -> None:
    runner = shared_runner(smollm2_dir)
    tokenizer = ModelTokenizer(smollm2_dir)
    prompts = [f"Number {index}: " + "tell me more about it " * (2 * index) for index in range(5)]
    engine = TorchEngine(runner, tokenizer, name="engine", max_batch=concurrency, max_step_tokens=16, tuning=tuning)

    async def answer(index: int) -> list[int]:
        await asyncio.sleep(0.02 * index)
        sampling = SamplingParams(max_tokens=12, ignore_eos=True)
        # Late ones are pressed, and more so the later they come.
        request = GenerateRequest(prompts[index], sampling, urgency=float(-index))
        return [token async for chunk in engine.submit(request) for token in chunk.token_ids]

    found = await asyncio.gather(*(answer(index) for index in range(5)))
    await engine.close()
    assert found == [by_definition(runner, tokenizer.encode(prompt), 12) for prompt in prompts]


@functools.cache
def shared_runner(folder: Path) -> ModelRunner:
    return ModelRunner.load(folder, weight_format=DEFAULT_WEIGHT_FORMAT, threads=1, kv_cache_bytes=8 * 2**20)


@functools.cache
def _alone(runner: ModelRunner, prompt: tuple[int, ...], count: int) -> list[int]:
    """The greedy answer, one token a step, without any engine."""
    tokens = list(prompt)
    table = list(range(-(-(len(prompt) + count) // runner.kv.block_size)))
    (logits,) = runner.step([SequenceSlice(tokens, 0, table, len(tokens) - 1)])
    while True:
        tokens.append(int(logits[-1].argmax()))
        if len(tokens) == len(prompt) + count:
            return tokens[len(prompt) :]
        (logits,) = runner.step([SequenceSlice(tokens[-1:], len(tokens) - 1, table, 0)])


def by_definition(runner: ModelRunner, prompt: Sequence[int], count: int) -> list[int]:
    return _alone(runner, tuple(prompt), count)
