"""Every supported architecture gives the logits that transformers gives, on tiny random weights."""

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from agentsys.serving.torch_engine import flash_attention
from agentsys.serving.torch_engine.checkpoint import INDEX_FILE, Checkpoint, InvalidWeightsError
from agentsys.serving.torch_engine.decode_graphs import CudaGraphs
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache
from agentsys.serving.torch_engine.gpu_model import GpuModel
from agentsys.serving.torch_engine.kv_cache import KVCacheTooSmallError
from agentsys.serving.torch_engine.model_config import ModelConfig, UnsupportedModelError
from agentsys.serving.torch_engine.model_runner import ModelRunner, SequenceSlice
from agentsys.serving.torch_engine.model_weights import ModelWeights
from agentsys.serving.torch_engine.weight_formats import DeviceError, UnknownWeightFormatError

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

SHAPE = {
    "vocab_size": 131,
    "hidden_size": 96,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-untied": {"model_type": "llama", "tie_word_embeddings": False},
    "llama3-rope": {"model_type": "llama", "rope_parameters": LLAMA3},
    "linear-rope": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 7},
}


def build(folder: Path, max_shard_size: str = "5GB", **options: Any) -> Any:
    """Save a random model whose biases and norms are not the identity, and return it."""
    torch.manual_seed(3)
    settings = SHAPE | {"head_dim": 16} | options
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def load(folder: Path, weight_format: str = "float32", *, native: bool = True) -> ModelRunner:
    return ModelRunner.load(folder, weight_format=weight_format, threads=1, kv_cache_bytes=2**20, native=native)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_equal_those_of_transformers(name: str, native: bool, tmp_path: Path) -> None:
    model = build(tmp_path, **ARCHITECTURES[name])
    runner = load(tmp_path, native=native)
    tokens = torch.randint(0, SHAPE["vocab_size"], (70,)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0]
    table = [7, 3, 1, 9, 2]
    first, second = 37, 33
    whole = runner.step([SequenceSlice(tokens[:first], 0, table, 0)])[0]
    rest = runner.step([SequenceSlice(tokens[first:], first, table, 0)])[0]
    assert len(rest) == second
    torch.testing.assert_close(torch.cat([whole, rest]), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("weight_format", "tolerance"), [("bfloat16", 0.05), ("int8", 0.08)])
def test_reduced_formats_stay_near_float32(weight_format: str, tolerance: float, tmp_path: Path) -> None:
    build(tmp_path, **ARCHITECTURES["qwen3"])
    tokens = list(range(40))
    piece = SequenceSlice(tokens, 0, [0, 1, 2], 0)
    exact, reduced = load(tmp_path).step([piece])[0], load(tmp_path, weight_format).step([piece])[0]
    error = (reduced - exact).norm() / exact.norm()
    assert 0 < error < tolerance


def plain_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    *_lengths: int,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch's ``varlen_attn`` computes, where there is no GPU to run it."""
    parts = []
    bounds = (pairwise(starts.tolist()) for starts in (query_starts, key_starts))
    for (begin, end), (first, last) in zip(*bounds, strict=True):
        everything = torch.arange(last - first)
        ages = everything[last - first - (end - begin) :, None] - everything
        seen = (ages >= 0) & ((ages <= window_size[0]) | (window_size[0] < 0))
        three = (part.transpose(0, 1) for part in (queries[begin:end], keys[first:last], values[first:last]))
        attended = torch.nn.functional.scaled_dot_product_attention(*three, attn_mask=seen, enable_gqa=enable_gqa)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu), "cpu"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_pass_for_gpus_gives_the_logits_of_the_reference(
    name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, **ARCHITECTURES[name])
    if device == "cpu":
        monkeypatch.setattr(flash_attention, "varlen_attn", plain_attention)
    config = ModelConfig.load(tmp_path)
    kv = TokenMajorKVCache(config, size_bytes=2**22, block_size=16, device=device)
    model = GpuModel(config, ModelWeights(config, partial(Checkpoint, tmp_path)), kv)
    runners = [load(tmp_path, native=False), ModelRunner(config, kv, model, "bfloat16")]
    long, short = torch.randint(0, SHAPE["vocab_size"], (2, 60)).tolist()
    steps = [
        [SequenceSlice(long[:37], 0, [7, 3, 1], 0), SequenceSlice(short[:5], 0, [2], 4)],
        [SequenceSlice(short[5:6], 5, [2], 0), SequenceSlice(long[37:59], 37, [7, 3, 1, 9], 0)],
        [SequenceSlice(long[59:60], 59, [7, 3, 1, 9], 0), SequenceSlice(short[6:30], 6, [2, 5], 24)],
    ]
    for step in steps:
        for plain, fast in zip(*(runner.step(step) for runner in runners), strict=True):
            assert fast.shape == plain.shape and fast.dtype == plain.dtype and fast.device == plain.device
            assert not len(plain) or (fast - plain).norm() / plain.norm() < 0.05


def rerun(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    """What a recording does, where there is no GPU to record on: it reads and writes the same memory each time."""
    output = compute().clone()
    return lambda: output.copy_(compute()), output


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu), "cpu"])
def test_recorded_steps_give_the_logits_of_the_reference(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, **ARCHITECTURES["smollm2"])
    sizes: list[tuple[int, ...]] = []

    def record(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        replay, output = CudaGraphs()(compute) if device == "cuda" else rerun(compute)
        sizes.append(tuple(output.shape))
        return replay, output

    if device == "cpu":
        monkeypatch.setattr(flash_attention, "varlen_attn", plain_attention)
    config = ModelConfig.load(tmp_path)
    kv = TokenMajorKVCache(config, size_bytes=2**22, block_size=16, device=device)
    model = GpuModel(config, ModelWeights(config, partial(Checkpoint, tmp_path)), kv, record)
    runners = [load(tmp_path, native=False), ModelRunner(config, kv, model, "bfloat16")]
    tokens = torch.randint(0, SHAPE["vocab_size"], (3, 80)).tolist()
    tables, lengths = [[7, 3, 1, 9, 11], [2, 5, 4, 12, 13], [0, 6, 8, 10, 14]], [37, 5, 15]
    for runner in runners:
        runner.step([SequenceSlice(tokens[n][: lengths[n]], 0, tables[n], lengths[n]) for n in range(3)])
    for count in (1, 3, 2, 3) * 8:
        pieces = [SequenceSlice([tokens[n][lengths[n]]], lengths[n], tables[n], 0) for n in range(count)]
        for plain, fast in zip(*(runner.step(pieces) for runner in runners), strict=True):
            assert fast.shape == plain.shape and (fast - plain).norm() / plain.norm() < 0.05
        for n in range(count):
            lengths[n] += 1
    assert sorted(sizes) == [(1, 131), (2, 131), (4, 131)]


def test_what_a_gpu_does_not_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, model_type="llama")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="cannot run on 'cuda'"):
        ModelRunner.load(tmp_path, kv_cache_bytes=2**20, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DeviceError, match="'int8' does not run on a GPU"):
        ModelRunner.load(tmp_path, kv_cache_bytes=2**20, weight_format="int8", device="cuda")


def test_random_weights_need_no_file_and_are_the_same_each_time(tmp_path: Path) -> None:
    build(tmp_path, **ARCHITECTURES["llama-untied"])
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    piece = SequenceSlice([5, 6, 7], 0, [0], 0)
    one, other = (
        ModelRunner.load(tmp_path, kv_cache_bytes=2**20, random_weights=True).step([piece])[0] for _ in range(2)
    )
    assert torch.equal(one, other) and one.isfinite().all() and one.std() > 0


def test_sharded_checkpoints_load(tmp_path: Path) -> None:
    build(tmp_path / "single", model_type="llama")
    build(tmp_path / "sharded", max_shard_size="100KB", model_type="llama")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    piece = SequenceSlice([5, 6, 7], 0, [0], 2)
    single, sharded = (load(tmp_path / name).step([piece])[0] for name in ("single", "sharded"))
    assert torch.equal(single, sharded)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "artial"),
        ({"max_position_embeddings": None}, "is faulty"),
        ({"num_attention_heads": 0, "head_dim": None}, "is faulty"),
        ({"vocab_size": "many"}, "is faulty"),
    ],
)
def test_unsupported_models_are_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    build(tmp_path, model_type="llama")
    edit_config(tmp_path, **changes)
    with pytest.raises(UnsupportedModelError, match=named):
        load(tmp_path)


def test_config_must_exist_and_be_complete(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="not valid JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 2}')
    with pytest.raises(UnsupportedModelError, match="vocab_size"):
        load(tmp_path)


def test_output_bias_is_refused(tmp_path: Path) -> None:
    build(tmp_path, model_type="llama", attention_bias=True)
    with pytest.raises(UnsupportedModelError, match=r"o_proj\.bias"):
        load(tmp_path)


def test_missing_misshapen_and_damaged_weights_are_named(tmp_path: Path) -> None:
    build(tmp_path, model_type="llama")
    edit_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(InvalidWeightsError, match=r"layers\.3"):
        load(tmp_path)
    edit_config(tmp_path, num_hidden_layers=3, intermediate_size=160)
    with pytest.raises(InvalidWeightsError, match="shape"):
        load(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidWeightsError, match=r"model\.safetensors"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(InvalidWeightsError, match="no \\*"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_quantised_weights_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    build(tmp_path, model_type="llama")
    path, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name].to(dtype)}, path)
    with pytest.raises(InvalidWeightsError, match=rf"{name}.*{dtype}"):
        load(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    build(tmp_path, max_shard_size="100KB", model_type="llama")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(InvalidWeightsError, match=shard.name):
        load(tmp_path)
    for damaged in ("{", "{}", "[]"):
        (tmp_path / INDEX_FILE).write_text(damaged)
        with pytest.raises(InvalidWeightsError, match="no list of weight files"):
            load(tmp_path)


def test_unknown_format_and_too_small_cache_are_refused(tmp_path: Path) -> None:
    build(tmp_path, model_type="llama")
    with pytest.raises(UnknownWeightFormatError, match="int3"):
        load(tmp_path, "int3")
    with pytest.raises(KVCacheTooSmallError, match="1000 bytes"):
        ModelRunner.load(tmp_path, kv_cache_bytes=1000)
