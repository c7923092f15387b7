"""The torch engine beside transformers' ``generate``: tokens a second in every weight format, and what each costs.

Both answer the same prompts greedily in the same run, their turns interleaved, prefill included, transformers in a
process of its own. Perplexity is taken on the opening of *Alice's Adventures in Wonderland* (public domain) in windows
of 1,024 tokens.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as functional
from transformers import AutoModelForCausalLM

from agentsys.benchmarks.harness import Bar, BenchResult, Options, interleave, median, other_cpu_share
from agentsys.serving.requests import GenerateRequest, SamplingParams
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.kernels import kernels
from agentsys.serving.torch_engine.model_runner import ModelRunner, SequenceSlice
from agentsys.serving.torch_engine.weight_formats import LINEARS
from agentsys.serving.weights.pull import pull

TEXT: Final = Path(__file__).parent / "data" / "alice.txt"
BATCHES: Final = (1, 8)
REFERENCES: Final = ("float32", "bfloat16")
PROMPT_TOKENS: Final = 64
WINDOW: Final = 1024
SAME_TYPE_BAR: Final = 1.3
BEST_FORMAT_BAR: Final = 2.5
PERPLEXITY_BAR_PERCENT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of token ids (equal length, so that transformers needs no padding) and how many tokens to answer."""

    prompts: Sequence[Sequence[int]]
    new_tokens: int


def main(options: Options) -> BenchResult:
    """Measure; ``arguments`` may set ``threads`` (2) and ``model`` (the default model)."""
    threads = int(options.arguments.get("threads", "2"))
    folder = pull(options.arguments.get("model", "smollm2-135m"))
    torch.set_num_threads(threads)
    tokens = ModelTokenizer(folder).encode(TEXT.read_text(encoding="utf-8"))
    new_tokens = 16 if options.quick else 64
    runners = {name: ModelRunner.load(folder, weight_format=name, threads=threads) for name in LINEARS}
    perplexities = {name: perplexity(runner, tokens) for name, runner in runners.items()}
    engines = {
        name: TorchEngine(runner, ModelTokenizer(folder), name=name, max_batch=max(BATCHES))
        for name, runner in runners.items()
    }
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    arms: dict[str, Callable[[], float]] = {}
    for batch in BATCHES:
        workload = Workload([tokens[i * 40 : i * 40 + PROMPT_TOKENS] for i in range(batch)], new_tokens)
        for name in REFERENCES:
            task = partial(_transformers_rate, str(folder), name, threads, workload)
            arms[f"transformers {name} {batch}"] = partial(_in_process_of_its_own, pool, task)
        for name, engine in engines.items():
            arms[f"engine {name} {batch}"] = _engine_arm(engine, workload)
    for run in arms.values():
        run()
    busy = other_cpu_share()
    figures = interleave(arms, 2 if options.quick else options.repeats)
    pool.shutdown()
    for engine in engines.values():
        asyncio.run(engine.close())
    notes = [
        f"{threads} threads, {PROMPT_TOKENS} prompt and {new_tokens} new tokens, greedy, without speculation.",
        f"Other processes kept {busy:.1f} cores busy before the runs and {other_cpu_share():.1f} after them.",
        f"Native kernels: {kernels().reason}.",
    ]
    invariant = [name for name, runner in runners.items() if runner.batch_invariant]
    return _result(figures, perplexities, invariant, notes)


def perplexity(runner: ModelRunner, tokens: Sequence[int]) -> float:
    """Return the perplexity of a text, each window of 1,024 tokens predicted from its own beginning."""
    loss, count = 0.0, 0
    for start in range(0, len(tokens) - 1, WINDOW):
        window = tokens[start : start + WINDOW + 1]
        table = range(-(-len(window) // runner.kv.block_size))
        logits = runner.step([SequenceSlice(window[:-1], 0, table, 0)])[0]
        loss += functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum").item()
        count += len(window) - 1
    return math.exp(loss / count)


def _in_process_of_its_own(pool: ProcessPoolExecutor, task: Callable[[], float]) -> float:
    # Beside the engine's thread, OpenMP sees more threads than cores in one process and stops spinning between parallel
    # regions, which would slow transformers down.
    return pool.submit(task).result()


@cache
def _reference(folder: str, name: str, threads: int) -> Any:
    torch.set_num_threads(threads)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name))


def _transformers_rate(folder: str, name: str, threads: int, workload: Workload) -> float:
    model = _reference(folder, name, threads)
    tokens = torch.tensor(workload.prompts)
    options = {"min_new_tokens": workload.new_tokens, "max_new_tokens": workload.new_tokens, "do_sample": False}
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    return len(workload.prompts) * workload.new_tokens / (time.perf_counter() - start)


def _engine_arm(engine: TorchEngine, workload: Workload) -> Callable[[], float]:
    sampling = SamplingParams(max_tokens=workload.new_tokens, ignore_eos=True)
    # The first token differs each time, or the prefix cache would spare the engine the prefill that the others do.
    fresh = iter(range(1, 1 << 30))

    async def answer(prompt: Sequence[int]) -> int:
        request = GenerateRequest([next(fresh) % 1000, *prompt[1:]], sampling)
        return sum([len(chunk.token_ids) async for chunk in engine.submit(request)])

    async def answer_all() -> int:
        return sum(await asyncio.gather(*(answer(prompt) for prompt in workload.prompts)))

    def run() -> float:
        start = time.perf_counter()
        return asyncio.run(answer_all()) / (time.perf_counter() - start)

    return run


def _result(
    figures: dict[str, list[float]], perplexities: Mapping[str, float], invariant: Sequence[str], notes: list[str]
) -> BenchResult:
    medians = {name: median(values) for name, values in figures.items()}
    best = max(invariant, key=lambda name: medians[f"engine {name} 1"], default="float32")
    bars = [
        Bar(f"{name}, batch {batch}: times transformers {name}", _ratio(medians, name, name, batch), SAME_TYPE_BAR)
        for name in ("float32", "bfloat16")
        for batch in BATCHES
    ]
    bars += [
        Bar(f"{best}, batch {batch}: times transformers {other}", _ratio(medians, best, other, batch), BEST_FORMAT_BAR)
        for other in ("float32", "bfloat16")
        for batch in BATCHES
    ]
    changes = {name: 100 * (value / perplexities["float32"] - 1) for name, value in perplexities.items()}
    bars.append(Bar(f"{best}: perplexity change, %", changes[best], PERPLEXITY_BAR_PERCENT, at_least=False))
    rows: list[Sequence[str | float | int]] = []
    for arm in dict.fromkeys(name.rsplit(" ", 1)[0] for name in figures):
        name = arm.split()[-1]
        quality: list[str | float] = ["", "", ""]
        if arm.startswith("engine"):
            quality = ["yes" if name in invariant else "no", round(perplexities[name], 2), f"{changes[name]:+.1f} %"]
        rows.append([arm, *(round(medians[f"{arm} {batch}"], 1) for batch in BATCHES), *quality])
    speeds = ", ".join(f"{medians[f'engine {best} {b}']:.0f} tok/s at batch {b}" for b in BATCHES)
    times = ", ".join(f"{_ratio(medians, best, 'float32', batch):.1f}x" for batch in BATCHES)
    return BenchResult(
        name="engine",
        figure=f"{best}: {speeds} ({times} transformers float32), perplexity {changes[best]:+.1f} %",
        columns=["arm", *(f"tok/s, batch {batch}" for batch in BATCHES), "batch-invariant", "perplexity", "change"],
        rows=rows,
        bars=bars,
        repetitions=figures,
        notes=notes,
    )


def _ratio(medians: Mapping[str, float], name: str, other: str, batch: int) -> float:
    return medians[f"engine {name} {batch}"] / medians[f"transformers {other} {batch}"]
