"""The native kernels compile, agree with the torch path, and step aside with a reason where they cannot."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agentsys.serving.torch_engine import kernels
from agentsys.serving.torch_engine.batch import FlatBatch
from agentsys.serving.torch_engine.checkpoint import Checkpoint
from agentsys.serving.torch_engine.kernels_model import NativeModel, supports
from agentsys.serving.torch_engine.kv_cache import KVCache
from agentsys.serving.torch_engine.model import TorchModel
from agentsys.serving.torch_engine.model_config import ModelConfig
from agentsys.serving.torch_engine.model_runner import ModelRunner, SequenceSlice
from agentsys.serving.torch_engine.model_weights import ModelWeights

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler")
PORTABLE = {"x86_64": "-march=x86-64-v3", "aarch64": "-march=armv8-a"}.get(platform.machine(), kernels.NATIVE)
SLICES = [
    SequenceSlice(list(range(45)), 0, [5, 2, 7], 0),
    SequenceSlice([9], 0, [1], 0),
    SequenceSlice([3, 3, 3], 0, [0], 1),
]


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernel-model")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=140,
        intermediate_size=200,
        num_hidden_layers=2,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    kernels.kernels.cache_clear()
    yield
    kernels.kernels.cache_clear()


def logits_of(folder: Path, weight_format: str, architecture: str | None) -> torch.Tensor:
    config = ModelConfig.load(folder)
    dtype = torch.float32 if weight_format == "float32" else torch.float16
    kv = KVCache(config, size_bytes=2**20, block_size=16, dtype=dtype)
    weights = ModelWeights(config, partial(Checkpoint, folder))
    model: TorchModel | NativeModel
    if architecture is None:
        model = TorchModel(config, weights, kv, weight_format=weight_format)
    else:
        compiler = kernels.find_compiler()
        assert compiler is not None
        library = kernels.load(kernels.build(compiler, architecture))
        model = NativeModel(config, weights, kv, library, weight_format=weight_format, threads=2)
    with torch.inference_mode():
        return model.forward(FlatBatch.of(SLICES, kv.block_size)).logits


@needs_compiler
@pytest.mark.parametrize("architecture", [kernels.NATIVE, pytest.param(PORTABLE, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("weight_format", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2), ("int8", 2e-2)])
def test_native_logits_agree_with_the_torch_path(
    weights_dir: Path, weight_format: str, tolerance: float, architecture: str
) -> None:
    reference = logits_of(weights_dir, weight_format, None)
    native = logits_of(weights_dir, weight_format, architecture)
    assert native.shape == reference.shape == (45 + 1 + 2, 101)
    assert (native - reference).norm() / reference.norm() < tolerance


@needs_compiler
def test_a_built_library_is_reused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler = kernels.find_compiler()
    assert compiler is not None
    first = kernels.build(compiler)
    changed = first.stat().st_mtime_ns
    assert kernels.build(compiler) == first
    assert first.stat().st_mtime_ns == changed
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_kernels_can_be_switched_off(weights_dir: Path, monkeypatch: pytest.MonkeyPatch, fresh_kernels: None) -> None:
    monkeypatch.setenv("AGENTSYS_NATIVE_KERNELS", "off")
    assert not kernels.available()
    assert "AGENTSYS_NATIVE_KERNELS" in kernels.kernels().reason
    assert ModelRunner.load(weights_dir, weight_format="int8", kv_cache_bytes=2**20).batch_invariant
    assert not ModelRunner.load(weights_dir, weight_format="float32", kv_cache_bytes=2**20).batch_invariant


def test_without_a_compiler_the_reason_says_so(monkeypatch: pytest.MonkeyPatch, fresh_kernels: None) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert kernels.kernels().library is None
    assert "no C++ compiler" in kernels.kernels().reason


def test_a_failing_compiler_is_reported_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_kernels: None
) -> None:
    compiler = tmp_path / "broken-compiler"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "out of registers" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert kernels.kernels().library is None
    assert "out of registers" in kernels.kernels().reason


def test_shapes_that_do_not_fill_vectors_take_the_torch_path(weights_dir: Path) -> None:
    config = ModelConfig.load(weights_dir)
    assert supports(config, 16)
    assert not supports(config, 8)
    runner = ModelRunner.load(weights_dir, weight_format="float32", kv_cache_bytes=2**20, block_size=8)
    assert not runner.batch_invariant
    assert runner.step([SequenceSlice([1, 2, 3], 0, [0], 0)])[0].shape == (3, 101)


@pytest.mark.parametrize("piece", [SequenceSlice([], 0, [0], 0), SequenceSlice([1] * 17, 0, [0], 0)])
def test_empty_slices_and_short_block_tables_are_refused(weights_dir: Path, piece: SequenceSlice) -> None:
    runner = ModelRunner.load(weights_dir, kv_cache_bytes=2**20)
    with pytest.raises(ValueError, match="slice 0"):
        runner.step([piece])


def test_a_batch_that_reaches_outside_the_memory_is_refused(weights_dir: Path) -> None:
    runner = ModelRunner.load(weights_dir, kv_cache_bytes=2**20)
    blocks, context = runner.kv.num_blocks, runner.config.context_length
    table = list(range(-(-(context + 1) // 16)))
    with pytest.raises(ValueError, match="position"):
        runner.step([SequenceSlice([1], context, table, 0)])
    with pytest.raises(ValueError, match="block"):
        runner.step([SequenceSlice([1], 0, [blocks], 0)])


NO_MORE_THREADS = """
import resource, sys
from pathlib import Path
import torch
from agentsys.serving.torch_engine.model_runner import ModelRunner, SequenceSlice
from agentsys.serving.torch_engine.model_weights import ModelWeights

torch.set_num_threads(1)
folder, slices = Path(sys.argv[1]), [SequenceSlice([1, 2], 0, [0], 0)]
expected = ModelRunner.load(folder, threads=1, kv_cache_bytes=2**20).step(slices)[0]
torch.set_num_threads = lambda count: None  # torch's own pool ends the process where threads are short
# Each thread needs address space for its stack; leave room for a few only, until the kernels have started theirs.
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
release = ModelWeights.release
ModelWeights.release = lambda self: (resource.setrlimit(resource.RLIMIT_AS, (hard, hard)), release(self))
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
runner = ModelRunner.load(folder, threads=400, kv_cache_bytes=2**20)
print(torch.equal(runner.step(slices)[0], expected))
"""


@needs_compiler
@pytest.mark.skipif(platform.system() != "Linux", reason="needs /proc")
def test_fewer_threads_than_asked_for_are_enough(weights_dir: Path) -> None:
    command = [sys.executable, "-c", NO_MORE_THREADS, str(weights_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", (done.returncode, done.stderr[-1500:])
