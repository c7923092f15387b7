"""Models on a GPU share its memory. No GPU is here: how much is free on it is scripted, and so are the engines."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from agentsys.embedded import client_of
from agentsys.serving.client import ServingClient
from agentsys.serving.device_memory import DeviceBudgets, free_memory
from agentsys.serving.engine_errors import EngineClosedError
from agentsys.serving.loading import LoadedModels
from agentsys.serving.models import EngineOptions, engine_factory, replicated
from agentsys.serving.requests import GenerateRequest, SamplingParams
from agentsys.serving.residence import DeviceFullError, Residence
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.checkpoint import InvalidWeightsError
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.vllm_engine.versions import VllmMissingError
from agentsys.settings import load_settings

MIB = 2**20


class OnGpu:
    """Makes a scripted engine that says what it takes of the GPU."""

    def __init__(self, runner, folder, **claims: int) -> None:
        self.runner, self.folder, self.claims, self.made = runner, folder, claims, 0

    def memory_claims(self) -> Mapping[str, int]:
        return self.claims

    def __call__(self) -> TorchEngine:
        self.made += 1
        return TorchEngine(self.runner(), ModelTokenizer(self.folder), name="scripted")


class Gpu:
    """A scripted GPU: so much is free on it, and it counts how often it is asked."""

    def __init__(self, free: int | None) -> None:
        self.free, self.asked = free, 0

    def __call__(self, device: str) -> int | None:
        self.asked += device == "cuda"
        return self.free


@pytest.fixture
def on_gpu(scripted_runner, tiny_model_dir):
    return lambda **claims: OnGpu(scripted_runner, tiny_model_dir, **claims)


def loaded(models: LoadedModels, *names: str) -> list[bool]:
    return [models.resident(name).loaded for name in names]


async def test_an_idle_model_makes_room_on_the_gpu_for_the_next(on_gpu) -> None:
    gpu = Gpu(1000 * MIB)
    sources = {"a": on_gpu(cuda=500 * MIB), "b": on_gpu(cuda=401 * MIB), "c": on_gpu()}
    models = LoadedModels(sources, Residence(DeviceBudgets(free=gpu)))
    await models.engine("a")
    gpu.free = 0
    await models.engine("c")
    assert loaded(models, "a", "b", "c") == [True, False, True] and models.resident("a").gpu_bytes == 500 * MIB
    await models.engine("b")
    assert loaded(models, "a", "b", "c") == [False, True, True], "one that takes nothing of the GPU stays"
    assert gpu.asked == 1, "what is free is asked for before the first model is there"
    await models.close()


async def test_a_model_beside_which_there_is_no_room_is_refused_until_there_is(on_gpu) -> None:
    sources = {"a": on_gpu(cuda=500 * MIB), "b": on_gpu(cuda=401 * MIB)}
    models = LoadedModels(sources, Residence(DeviceBudgets(free=Gpu(1000 * MIB))))
    with models.in_use("a"):
        first = await models.engine("a")
        with pytest.raises(DeviceFullError, match=r"b takes 401 MiB .* may have 900 MiB; .*: a 500 MiB") as caught:
            await models.engine("b")
        assert caught.value.code == "AGS-0457" and "gpu_memory_mib" in caught.value.remedy
        await asyncio.sleep(0)
        assert loaded(models, "a", "b") == [True, False] and models.resident("b").gpu_bytes == 0
        assert sources["b"].made == 0 and not models.failed, "nothing was tried"
        assert await models.engine("a") is first
    await models.engine("b")
    assert loaded(models, "a", "b") == [False, True]
    await models.close()


async def test_what_its_owner_unloads_other_processes_can_have(on_gpu, monkeypatch) -> None:
    released: list[bool] = []
    monkeypatch.setattr("agentsys.serving.loading.release_cached", lambda: released.append(True))
    client = ServingClient({"a": on_gpu(cuda=500 * MIB)}, "a")
    assert await client.unload("a") is False and not released
    await client.engine()
    assert await client.unload("a") is True and released
    await client.close()


async def test_what_can_never_fit_is_refused_and_unloads_nobody(on_gpu) -> None:
    sources = {"a": on_gpu(cuda=500 * MIB), "huge": on_gpu(cuda=901 * MIB)}
    models = LoadedModels(sources, Residence(DeviceBudgets(free=Gpu(1000 * MIB))))
    await models.engine("a")
    with pytest.raises(DeviceFullError, match="cannot be unloaded: nothing"):
        await models.engine("huge")
    assert loaded(models, "a") == [True]
    await models.close()


async def test_of_two_loads_at_once_that_do_not_fit_one_is_refused(on_gpu) -> None:
    sources = {name: on_gpu(cuda=500 * MIB) for name in "ab"}
    models = LoadedModels(sources, Residence(DeviceBudgets({"cuda": 999 * MIB})))
    done = await asyncio.gather(*(models.engine(name) for name in "ab"), return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["DeviceFullError", "TorchEngine"]
    await models.close()


async def test_a_load_that_blocks_is_refused_too_and_one_that_fails_gives_back(on_gpu, monkeypatch) -> None:
    sources = {name: on_gpu(cuda=500 * MIB) for name in "ab"}
    client = ServingClient(sources, "a", gpu_memory_bytes=999 * MIB)
    client.capabilities("a")
    with pytest.raises(DeviceFullError):
        client.capabilities("b")
    assert [one.gpu_bytes for one in client.residents()] == [500 * MIB, 0]
    await client.unload("a")

    def fail(self):
        raise EngineClosedError("not now")

    monkeypatch.setattr(OnGpu, "__call__", fail)
    with pytest.raises(EngineClosedError):
        client.capabilities("b")
    monkeypatch.undo()
    await client.generate(GenerateRequest([5], SamplingParams(max_tokens=2)))
    await client.close()


async def test_without_a_gpu_nothing_is_bound(on_gpu) -> None:
    models = LoadedModels({name: on_gpu(cuda=500 * MIB) for name in "ab"}, Residence(DeviceBudgets(free=Gpu(None))))
    await asyncio.gather(*(models.engine(name) for name in "ab"))
    assert loaded(models, "a", "b") == [True, True]
    await models.close()
    assert free_memory("cpu") is None and (free_memory("cuda") is None) is not torch.cuda.is_available()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with 1,000 numbers of float32, 10 of bfloat16 and 8 of int8."""
    found = tmp_path / "model"
    found.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (found / name).write_text("{}")
    tensors = {
        "a": torch.zeros(10, 100),
        "b": torch.zeros(10, dtype=torch.bfloat16),
        "c": torch.zeros(8, dtype=torch.int8),
    }
    save_file(tensors, found / "model.safetensors")
    return found


def test_weights_and_cache_of_a_gpu_model_are_known_beforehand(folder: Path) -> None:
    on_gpu = EngineOptions(device="cuda", kv_cache_bytes=3 * MIB)
    each = 2 * 1010 + 8 + 3 * MIB
    assert engine_factory(str(folder), on_gpu).memory_claims() == {"cuda": each}
    specs = [str(folder), str(folder), "http://127.0.0.1:9/v1#m"]
    assert replicated(specs, on_gpu, WorkflowTable()).memory_claims() == {"cuda": 2 * each}
    assert engine_factory(str(folder)).memory_claims() == {}, "of this machine's memory it is measured"
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidWeightsError, match=r"model\.safetensors"):
        engine_factory(str(folder), on_gpu).memory_claims()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize("name", ["some/model-of-nobody", "smollm2-135m"])
def test_nothing_is_downloaded_for_vllm_where_it_is_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(VllmMissingError):
        engine_factory(f"vllm:{name}", EngineOptions(models_dir=tmp_path / "models")).memory_claims()
    assert not (tmp_path / "models").exists()


async def test_the_settings_bound_the_gpu(folder: Path, tmp_path: Path) -> None:
    given = {"model.gpu_memory_mib": 1, "model.device": "cuda", "model.name": str(folder), "model.kv_cache_mib": 1}
    client = client_of(load_settings(given, directory=tmp_path, environment={}).settings)
    with pytest.raises(DeviceFullError, match="1 MiB of the memory of cuda"):
        await client.engine()
    await client.close()
