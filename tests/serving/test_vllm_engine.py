"""The real vLLM with our scheduler in it: slots for the urgent, live κ, small chunks, the same text all the while."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import UnsupportedFeatureError
from agentsys.serving.models import EngineOptions, engine_factory
from agentsys.serving.requests import Chunk, Constraint, GenerateRequest, SamplingParams
from agentsys.serving.scheduling.step_time import Iteration

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]

SLOTS = 4
BUSY = 80  # tokens of an answer that others come beside: it is still under way on a machine that has much else to do


def asked(name: str, urgency: float, tokens: int, prompt: Any = None) -> GenerateRequest:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    return GenerateRequest(prompt or f"{name} is a word that", params, urgency=time.time() + urgency, request_id=name)


class Run:
    """Requests at once on one engine, the order of their ends, and all their chunks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ended: list[str] = []
        self.chunks: dict[str, list[Chunk]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, request: GenerateRequest) -> None:
        self.chunks[request.request_id] = []
        self.tasks.append(asyncio.create_task(self._read(request)))

    async def fill(self) -> None:
        """Occupy every slot with calls in no hurry, each less urgent than the one before."""
        for index in range(SLOTS):
            self.ask(asked(f"busy {index}", 100 + 10 * index, BUSY))
        await self.until(lambda: all(len(self.tokens(f"busy {index}")) > 8 for index in range(SLOTS)))

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        await asyncio.gather(*self.tasks)

    def tokens(self, name: str) -> list[int]:
        return [token for chunk in self.chunks[name] for token in chunk.token_ids]

    async def _read(self, request: GenerateRequest) -> None:
        async for chunk in self.engine.submit(request):
            self.chunks[request.request_id].append(chunk)
        self.ended.append(request.request_id)


def test_it_says_what_it_can(vllm_engine: Engine) -> None:
    can = vllm_engine.capabilities()
    assert can.priority and can.preemption and can.rekey
    assert vllm_engine.stats().slots == SLOTS


async def test_an_urgent_call_takes_a_slot_and_the_preempted_text_is_the_same(vllm_engine: Engine) -> None:
    alone = Run(vllm_engine)
    alone.ask(asked("busy 3", 130, BUSY))
    await alone.end()
    run = Run(vllm_engine)
    await run.fill()
    run.ask(asked("urgent", 0, 8))
    await run.end()
    assert run.ended[0] == "urgent"
    assert run.chunks["busy 3"][-1].usage.preemptions == 1, "the least urgent gave way"
    assert [run.chunks[f"busy {index}"][-1].usage.preemptions for index in range(3)] == [0, 0, 0]
    assert run.tokens("busy 3") == alone.tokens("busy 3")


async def test_a_new_key_lets_a_waiting_call_overtake(vllm_engine: Engine) -> None:
    run = Run(vllm_engine)
    await run.fill()
    for name, urgency in (("first", 300), ("second", 400)):
        run.ask(asked(name, urgency, 40))
    await run.until(lambda: {"first", "second"} <= {one.request_id for one in vllm_engine.queue() or ()})
    vllm_engine.rekey("second", time.time() - 5)
    await run.end()
    assert run.ended[0] == "second"
    assert run.ended.index("first") > 1


async def test_a_new_key_makes_a_running_call_give_way(vllm_engine: Engine) -> None:
    run = Run(vllm_engine)
    await run.fill()
    run.ask(asked("next", 300, 10))
    await run.until(lambda: "next" in {one.request_id for one in vllm_engine.queue() or ()})
    vllm_engine.rekey("busy 0", time.time() + 500)
    await run.end()
    assert run.ended[0] == "next" and run.ended[-1] == "busy 0"
    assert run.chunks["busy 0"][-1].usage.preemptions == 1


async def test_a_key_sent_at_once_after_the_call_is_not_lost(vllm_engine: Engine) -> None:
    run = Run(vllm_engine)
    await run.fill()
    run.ask(asked("late", 500, 8))
    await asyncio.sleep(0)
    vllm_engine.rekey("late", time.time() - 5)
    await run.end()
    assert run.ended[0] == "late"


async def test_a_long_prompt_in_no_hurry_is_read_in_small_pieces_beside_an_urgent_answer(vllm_engine: Engine) -> None:
    before, _ = vllm_engine.iterations()
    run = Run(vllm_engine)
    # Nobody is in a hurry yet, or the long one might not start before the other ends.
    run.ask(asked("urgent", 60, BUSY))
    await run.until(lambda: len(run.tokens("urgent")) > 2)
    run.ask(asked("long", 500, 2, [100 + index % 300 for index in range(1500)]))
    await run.end()
    await run.until(lambda: sum(one.prefill_tokens for one in steps(vllm_engine, before)) >= 1500)
    beside = [one for one in steps(vllm_engine, before) if one.prefill_tokens and one.decoding]
    assert beside and max(one.prefill_tokens for one in beside) < 800


async def test_steps_phases_and_blocks_are_told(vllm_engine: Engine) -> None:
    before, _ = vllm_engine.iterations()
    run = Run(vllm_engine)
    await run.fill()
    run.ask(asked("waits", 500, 2))
    await run.until(lambda: [one.phase for one in vllm_engine.queue() or ()] == [*["decode"] * SLOTS, "waiting"])
    assert [one.request_id for one in vllm_engine.queue() or ()] == [*(f"busy {n}" for n in range(SLOTS)), "waits"]
    assert vllm_engine.stats().kv_used_blocks > 0
    await run.end()
    await run.until(lambda: sum(one.decoding for one in steps(vllm_engine, before)) >= SLOTS * (BUSY - 1) + 1)
    found = steps(vllm_engine, before)
    assert sum(one.prefill_tokens for one in found) == sum(
        run.chunks[name][-1].usage.prompt_tokens - run.chunks[name][-1].usage.cached_tokens for name in run.chunks
    )
    assert all(one.seconds > 0 for one in found)
    assert vllm_engine.stats().steps == before + len(found)


async def test_fewer_can_be_let_run(vllm_engine: Engine) -> None:
    run = Run(vllm_engine)
    await run.fill()
    await vllm_engine.limit_running(1)
    try:
        await run.end()
    finally:
        await vllm_engine.limit_running(0)
    assert run.ended == [f"busy {index}" for index in range(SLOTS)]


async def test_a_request_that_vllm_refuses_is_told_so_and_nobody_else_suffers(vllm_engine: Engine) -> None:
    run = Run(vllm_engine)
    await run.fill()
    refused = replace(asked("refused", 0, 8), constraint=Constraint("regex", "a\x00b"))
    with pytest.raises(UnsupportedFeatureError, match="NUL"):
        async for _ in vllm_engine.submit(refused):
            pass
    await run.end()
    assert len(run.ended) == SLOTS


def steps(engine: Engine, after: int) -> list[Iteration]:
    return list(engine.iterations(after)[1])


def test_what_its_own_process_takes_is_known_beforehand(smollm2_dir: Path) -> None:
    from agentsys.serving.vllm_engine.loading import VllmOptions, best_dtype, memory_claims

    cache, known = 64 * 2**20, {}
    for dtype in ("bfloat16", "float32"):
        claims = memory_claims(smollm2_dir, VllmOptions(dtype=dtype, kv_cache_bytes=cache))
        (device, known[dtype]) = next(iter(claims.items()))
        assert len(claims) == 1 and device in ("cpu", "cuda")
    assert 2 * 134e6 < known["bfloat16"] - cache < 2 * 136e6
    assert known["float32"] - cache == 2 * (known["bfloat16"] - cache)
    source = engine_factory(f"vllm:{smollm2_dir}", EngineOptions(kv_cache_bytes=cache))
    assert source.memory_claims() == {device: known[best_dtype(device)]}
