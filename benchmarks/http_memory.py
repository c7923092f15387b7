"""Memory of a dispatcher full of waiting calls, and of the torch engine under overload, each in its own process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import psutil

from agentsys.blackboard.labels import NOBODY
from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Capabilities, EngineStats, QueuedRequest
from agentsys.serving.engine_errors import UnsupportedFeatureError
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, GenerateRequest, SamplingParams, WorkflowCall
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.step_time import Iteration

PROMPT_CHARACTERS = 1000
KV_CACHE_MIB = 64
SLOTS = 8
_SAMPLE_SECONDS = 0.05


def dispatcher_memory(calls: int) -> tuple[float, float]:
    """Return the MiB that ``calls`` waiting calls of :data:`PROMPT_CHARACTERS` add to a process, and of all of it."""
    figures = _elsewhere("dispatcher", calls)
    return float(figures["mib"]), float(figures["resident"])


def engine_growth(requests: int) -> tuple[float, float]:
    """Return the MiB of the default model's engine once loaded, and what ``requests`` at once add to it at most."""
    figures = _elsewhere("engine", requests)
    return float(figures["loaded"]), float(figures["mib"])


def _elsewhere(what: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "agentsys.benchmarks.http_memory", what, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


class SilentEngine:
    """Takes calls and never answers: what waits before it is all there is to measure. No model."""

    def capabilities(self) -> Capabilities:
        return Capabilities("silent", 4096)

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        yield Chunk(" ")
        await asyncio.Event().wait()

    async def embed(self, request: EmbedRequest) -> Embedding:
        raise UnsupportedFeatureError("a silent engine has no vectors.")

    def abort(self, request_id: str) -> None: ...

    def rekey(self, request_id: str, urgency: float) -> None: ...

    def stats(self) -> EngineStats:
        return EngineStats(slots=SLOTS)

    def queue(self) -> tuple[QueuedRequest, ...] | None:
        return None

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        return 0, ()

    async def close(self) -> None: ...


async def _queue(calls: int) -> dict[str, float]:
    """Let calls of many workflows wait in a dispatcher whose replicas answer nothing."""
    sources = [ReplicaSource(f"r{number}", SilentEngine(), slots=SLOTS) for number in range(4)]
    dispatcher = Dispatcher(sources, limits=DispatchLimits(queue=2 * calls))
    client = ServingClient({"m": dispatcher}, "m", audience=NOBODY)
    before = _resident()

    async def call(number: int) -> None:
        place = WorkflowCall(f"w{number // 5}", "kind", f"stage{number % 5}", f"t{number % 20}", time.time() + 600)
        prompt = f"{number:08d} ".ljust(PROMPT_CHARACTERS, "x")
        request = GenerateRequest(prompt, SamplingParams(max_tokens=64), call=place)
        async with aclosing(client.stream(request)) as chunks:
            async for _ in chunks:
                pass

    tasks = [asyncio.create_task(call(number)) for number in range(calls)]
    while dispatcher.stats().waiting < calls - 4 * SLOTS:  # noqa: ASYNC110 - nobody tells when all are there
        await asyncio.sleep(_SAMPLE_SECONDS)
    figures = {"mib": _resident() - before, "resident": _resident()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    return figures


async def _overload(requests: int) -> dict[str, float]:
    """Ask the default model for far more at once than its slots and its cache can hold."""
    from agentsys.serving.torch_engine.engine import TorchEngine
    from agentsys.serving.weights.pull import pull

    engine = TorchEngine.load(pull(), kv_cache_bytes=KV_CACHE_MIB * 2**20)
    client = ServingClient({"m": engine}, "m")
    await client.generate(GenerateRequest("warm", SamplingParams(max_tokens=4)))
    loaded = _resident()
    with _Peak(_resident) as peak:
        sampling = SamplingParams(max_tokens=8, ignore_eos=True)
        prompts = [f"{number} words and more words " * 30 for number in range(requests)]
        await asyncio.gather(*(client.generate(GenerateRequest(prompt, sampling)) for prompt in prompts))
    await client.close()
    return {"loaded": loaded, "mib": peak.value - loaded}


class _Peak:
    """The largest value seen meanwhile, by sampling."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure = measure
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.value = 0.0

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.value = max(self.value, self._measure())


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    work = _queue if sys.argv[1] == "dispatcher" else _overload
    print(json.dumps(asyncio.run(work(int(sys.argv[2])))))
