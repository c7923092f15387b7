"""The real vLLM under real LoRA adapters of random weights: answers, caches and slots of each."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsys.serving.adapted import AdaptedModel
from agentsys.serving.client import ServingClient
from agentsys.serving.engine import Engine
from agentsys.serving.engine_errors import UnknownAdapterError
from agentsys.serving.models import EngineOptions, engine_factory, replicated
from agentsys.serving.requests import Chunk, GenerateRequest, SamplingParams
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.vllm_engine.adapters import AdapterError
from tests.serving.random_adapter import write_adapter

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]

PROMPT = "The capital of France is the city of "
LONG = PROMPT * 12  # several blocks of the prefix cache
SLOTS = 4
BUSY = 80  # tokens of an answer that others come beside: it is still under way on a machine that has much else to do


@pytest.fixture(scope="module")
def options(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    folder = tmp_path_factory.mktemp("adapters")
    # Of two ranks; the random weights make each answer its own.
    adapters = {
        name: write_adapter(folder / name, smollm2_dir, seed, rank=rank)
        for seed, (name, rank) in enumerate({"law": 8, "sea": 4}.items())
    }
    return EngineOptions(weight_format="float32", kv_cache_bytes=512 * 2**20, max_batch=SLOTS, adapters=adapters)


@pytest.fixture(scope="module")
def engine(smollm2_dir: Path, options: EngineOptions) -> Iterator[Engine]:
    made = replicated([f"vllm:{smollm2_dir}"], options, WorkflowTable())()
    yield made
    asyncio.run(made.close())


def asked(adapter: str | None, prompt: str = PROMPT, tokens: int = 24, **more: Any) -> GenerateRequest:
    return GenerateRequest(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True), adapter=adapter, **more)


async def collect(engine: Engine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(request)]


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


async def test_each_adapter_answers_in_its_own_way_also_beside_the_others(engine: Engine) -> None:
    assert engine.capabilities().adapters == {"law", "sea"}
    names = (None, "law", "sea")
    alone = [tokens(await collect(engine, asked(name))) for name in names]
    assert len({tuple(answer) for answer in alone}) == 3
    # The one without an adapter among them: vLLM's operations for CPUs would give it the last place's.
    beside = await asyncio.gather(*(collect(engine, asked(name)) for name in (*names, None)))
    assert [tokens(chunks) for chunks in beside] == [*alone, alone[0]]


async def test_without_adapters_loaded_the_answer_is_the_same(engine: Engine, vllm_engine: Engine) -> None:
    assert tokens(await collect(engine, asked(None))) == tokens(await collect(vllm_engine, asked(None)))


async def test_cached_prefixes_are_shared_within_an_adapter_and_never_across(engine: Engine) -> None:
    for name in (None, "law", "sea"):
        first, second = [(await collect(engine, asked(name, LONG, 4)))[-1].usage for _ in range(2)]
        assert first.cached_tokens == 0, f"{name} found what another had computed"
        assert second.cached_tokens > 32


async def test_an_urgent_call_of_an_adapter_takes_the_slot_of_another_whose_text_stays(engine: Engine) -> None:
    adapters = [None, "law", "sea", "law"]
    alone = tokens(await collect(engine, asked("law", "busy 3 is a word that", BUSY)))
    ended: list[str] = []
    read: dict[str, list[Chunk]] = {}

    async def ask(name: str, adapter: str | None, urgency: float, count: int) -> None:
        request = asked(adapter, f"{name} is a word that", count, urgency=time.time() + urgency, request_id=name)
        read[name] = []
        async for chunk in engine.submit(request):
            read[name].append(chunk)
        ended.append(name)

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for index, adapter in enumerate(adapters):
            group.create_task(ask(f"busy {index}", adapter, 100 + 10 * index, BUSY))
        while not all(len(tokens(read.get(f"busy {index}", []))) > 8 for index in range(SLOTS)):
            await asyncio.sleep(0.005)
        group.create_task(ask("urgent", "sea", 0, 8))
    assert ended[0] == "urgent"
    assert read["busy 3"][-1].usage.preemptions == 1
    assert tokens(read["busy 3"]) == alone


async def test_an_adapter_that_is_not_there_is_refused_by_name(engine: Engine, vllm_engine: Engine) -> None:
    with pytest.raises(UnknownAdapterError, match=r"no adapter 'air'; it has law, sea"):
        await collect(engine, asked("air"))
    with pytest.raises(UnknownAdapterError, match=r"no adapter 'law'; it has none"):
        await collect(vllm_engine, asked("law"))


async def test_a_client_names_an_adapter_as_a_model_of_its_own(engine: Engine) -> None:
    client = ServingClient({"base": engine, "law": AdaptedModel("base", "law")}, "base")
    expected = tokens(await collect(engine, asked("law")))
    answer = await client.generate(asked(None), model="law")
    assert list(answer.token_ids) == expected
    assert answer.model.endswith("+law")


def test_an_adapter_that_vllm_cannot_run_fails_the_load_and_says_why(smollm2_dir: Path, tmp_path: Path) -> None:
    dora = write_adapter(tmp_path / "dora", smollm2_dir, 3, use_dora=True)
    spec = f"vllm:{smollm2_dir}"
    with pytest.raises(AdapterError, match=r"'dora' in .*DoRA"):
        engine_factory(spec, EngineOptions(max_batch=2, kv_cache_bytes=2**26, adapters={"dora": dora}))()
