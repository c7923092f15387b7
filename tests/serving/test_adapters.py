"""LoRA adapters without vLLM: what is read of their files, what is refused, and who is asked for one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentsys.serving.adapted import AdaptedModel
from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Capabilities
from agentsys.serving.engine_errors import EngineClosedError, UnknownAdapterError, UnsupportedFeatureError
from agentsys.serving.loading import ModelBusyError, UnknownEngineError
from agentsys.serving.openai_engine import OpenAIEngine
from agentsys.serving.requests import Chunk, EmbedRequest, GenerateRequest, SamplingParams
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.vllm_engine.adapters import AdapterError, adapter_arguments, checked_adapters, read_adapter
from tests.serving.random_adapter import write_adapter
from tests.serving.server.scripted import ScriptedEngine

MODEL = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}


class AdapterEngine(ScriptedEngine):
    """A scripted engine that has adapters."""

    def __init__(self, *adapters: str) -> None:
        super().__init__()
        self.adapters = frozenset(adapters)

    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", 1000, adapters=self.adapters)


def model_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL | changes), encoding="utf-8")
    return folder


def asked(adapter: str | None = None, **more: Any) -> GenerateRequest:
    return GenerateRequest([5, 6, 7], SamplingParams(max_tokens=3), adapter=adapter, **more)


async def collect(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


def test_places_and_rank_follow_from_the_adapters_files(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    paths = {
        "b": write_adapter(tmp_path / "b", model, 1, rank=4, rank_pattern={"v_proj": 20}),
        "a": write_adapter(tmp_path / "a", model, 2, rank=8),
    }
    adapters = checked_adapters(paths, model)
    assert [(one.name, one.rank) for one in adapters] == [("a", 8), ("b", 20)]
    usual = {"enable_lora": True, "max_cpu_loras": 2, "max_lora_rank": 32}
    assert adapter_arguments(adapters, 1, "cuda") == usual | {"max_loras": 1}
    on_cpu = adapter_arguments(adapters, 1, "cpu")
    assert on_cpu["max_loras"] == 3, "the last place stays empty: vLLM gives it to tokens without adapter"
    assert adapter_arguments((), 8, "cpu") == {}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"rank": 1024}, r"'x' has rank 1024; vLLM takes at most 512"),
        ({"peft_type": "IA3"}, r"'x' is of the type IA3"),
        ({"r": "many"}, r"gives no rank r"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused(tmp_path: Path, damage: dict[str, Any], says: str) -> None:
    model = model_folder(tmp_path / "model")
    with pytest.raises(AdapterError, match=says):
        checked_adapters({"x": write_adapter(tmp_path / "x", model, 1, **damage)}, model)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"hidden_size": 64}, r"a hidden size of 64; that of the model is 32"), ({"num_hidden_layers": 9}, r"layer 2")],
)
def test_weights_for_a_model_of_another_shape_are_refused(tmp_path: Path, changes: dict[str, int], says: str) -> None:
    other, model = model_folder(tmp_path / "other", **changes), model_folder(tmp_path / "model")
    with pytest.raises(AdapterError, match=says):
        checked_adapters({"x": write_adapter(tmp_path / "x", other, 1)}, model)


def test_another_base_is_refused_where_both_names_are_known(tmp_path: Path) -> None:
    hub = model_folder(tmp_path / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / "0123")
    pulled = model_folder(tmp_path / "smollm2-135m")
    (pulled / "agentsys.json").write_text("{}", encoding="utf-8")
    anonymous = model_folder(tmp_path / "model")
    path = write_adapter(tmp_path / "x", anonymous, 1, base_model_name_or_path="meta-llama/Llama-3.2-1B")
    for folder in (hub, pulled):
        with pytest.raises(AdapterError, match=r"made for meta-llama/Llama-3.2-1B, .* SmolLM2-135M-Instruct") as raised:
            checked_adapters({"x": path}, folder)
        assert "base_model_name_or_path" in raised.value.remedy
    assert checked_adapters({"x": path}, anonymous), "nothing says what this folder's name on the hub is"
    for base in ("huggingfacetb/smollm2-135m-INSTRUCT", "/home/ann/base", None):
        write_adapter(path, anonymous, 1, base_model_name_or_path=base)
        assert checked_adapters({"x": path}, hub)


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    path = write_adapter(tmp_path / "x", model, 1)
    with pytest.raises(AdapterError, match=r"nowhere.adapter_config.json is not there"):
        read_adapter("x", tmp_path / "nowhere")
    (path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors is unreadable"):
        checked_adapters({"x": path}, model)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"holds no adapter_model.safetensors"):
        read_adapter("x", path)
    (path / "adapter_config.json").write_text("[1", encoding="utf-8")
    with pytest.raises(AdapterError, match=r"adapter_config.json is unreadable"):
        read_adapter("x", path)


async def test_an_engine_without_adapters_refuses_one(scripted_runner, tiny_model_dir: Path) -> None:
    engine = TorchEngine(scripted_runner(), ModelTokenizer(tiny_model_dir), name="scripted")
    with pytest.raises(UnknownAdapterError, match=r"scripted has no adapter 'law'; it has none"):
        await collect(engine.submit(asked("law")))
    await engine.close()
    remote = OpenAIEngine("http://127.0.0.1:9/v1", Capabilities("m", 1000))
    with pytest.raises(UnsupportedFeatureError, match=r"m's server has no adapter 'law'"):
        await collect(remote.submit(asked("law")))


async def test_a_dispatcher_sends_an_adapters_calls_where_it_is() -> None:
    plain, law = AdapterEngine(), AdapterEngine("law", "sea")
    dispatcher = Dispatcher([ReplicaSource("plain", plain), ReplicaSource("law", law)])
    for _ in range(4):
        await collect(dispatcher.submit(asked("law")))
    assert (len(plain.requests), len(law.requests)) == (0, 4)
    assert all(request.adapter == "law" for request in law.requests)
    with pytest.raises(UnknownAdapterError, match=r"no adapter 'air'; it has law, sea") as raised:
        await collect(dispatcher.submit(asked("air")))
    assert "agentsys.toml" in raised.value.remedy
    await dispatcher.close()


async def test_a_call_whose_adapter_is_on_a_replica_that_died_is_told_so() -> None:
    class Dying(AdapterEngine):
        async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
            raise EngineClosedError("it died.")
            yield

    dispatcher = Dispatcher([ReplicaSource("plain", AdapterEngine()), ReplicaSource("law", Dying("law"))])
    for _ in range(2):  # by the call that finds out, and by one that comes later, though another replica is well
        with pytest.raises(EngineClosedError, match=r"it died"):
            await collect(dispatcher.submit(asked("law")))
    assert await collect(dispatcher.submit(asked()))
    await dispatcher.close()


def test_a_replica_that_is_not_connected_yet_counts_with_the_adapters_it_will_have() -> None:
    class Later:
        adapters = frozenset({"law"})

        def __call__(self) -> AdapterEngine:
            raise EngineClosedError("not yet.")

    dispatcher = Dispatcher([ReplicaSource("plain", AdapterEngine()), ReplicaSource("law", Later())])
    assert dispatcher._core.replicas["law"].spec.adapters == {"law"}


async def test_a_client_serves_an_adapter_as_a_model_of_its_own_in_the_engine_of_another() -> None:
    engine = AdapterEngine("law")
    loads: list[int] = []

    def load() -> AdapterEngine:
        loads.append(1)
        return engine

    client = ServingClient({"base": load, "law": AdaptedModel("base", "law", "/adapters/law")}, "base")
    assert client.models == ("base", "law")
    assert (client.adapter_of("law"), client.adapter_of("base")) == ("base", None)
    assert client.identity("law") != client.identity("base") and "/adapters/law" in client.identity("law")
    answers = [await client.generate(asked(), model=name) for name in ("law", "base")]
    assert [one.model for one in answers] == ["scripted+law", "scripted"]
    assert [request.adapter for request in engine.requests] == ["law", None]
    assert (len(loads), list(client.stats())) == (1, ["base"])
    views = {one.name: (one.loaded, one.adapter_of) for one in client.residents()}
    assert views == {"base": (True, None), "law": (True, "base")}
    with pytest.raises(ModelBusyError, match=r"'law' is an adapter in the memory of 'base'.*Unload base"):
        await client.unload("law")
    assert await client.unload("base") is True


async def test_what_no_adapter_can_do_is_refused() -> None:
    client = ServingClient({"base": AdapterEngine("law", "sea"), "law": AdaptedModel("base", "law")}, "base")
    with pytest.raises(UnsupportedFeatureError, match=r"adapter 'law', and the request names 'sea'"):
        await client.generate(asked("sea"), model="law")
    with pytest.raises(UnsupportedFeatureError, match=r"no embeddings"):
        await client.embed(EmbedRequest(("text",)), model="law")
    assert (await client.generate(asked("law"), model="law")).text
    for base in ("nothing", "law"):
        with pytest.raises(UnknownEngineError, match=base):
            ServingClient({"base": AdapterEngine(), "law": AdaptedModel(base, "law")}, "base")
