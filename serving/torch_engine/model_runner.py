"""Loads a model folder and runs batched steps over it: the one thing the engine loop calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from agentsys.serving.torch_engine.batch import FlatBatch, Outputs, SequenceSlice
from agentsys.serving.torch_engine.checkpoint import Checkpoint
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache
from agentsys.serving.torch_engine.gpu_model import GpuModel
from agentsys.serving.torch_engine.kernels import kernels
from agentsys.serving.torch_engine.kernels_model import NativeModel, supports
from agentsys.serving.torch_engine.kv_cache import KVCache
from agentsys.serving.torch_engine.model import TorchModel
from agentsys.serving.torch_engine.model_config import ModelConfig
from agentsys.serving.torch_engine.model_weights import ModelWeights, NamedTensors
from agentsys.serving.torch_engine.random_checkpoint import RandomCheckpoint
from agentsys.serving.torch_engine.weight_formats import weight_format_on

__all__ = ["ModelRunner", "SequenceSlice"]


class Model(Protocol):
    """A forward pass over the rows of a batch."""

    batch_invariant: bool

    def forward(self, batch: FlatBatch) -> Outputs:
        """Return the logits and hidden states that the batch asks for."""
        ...


class ModelRunner:
    """A loaded model with its KV cache. Not thread-safe: one caller steps at a time."""

    def __init__(self, config: ModelConfig, kv: KVCache, model: Model, weight_format: str) -> None:
        self.config = config
        self.kv = kv
        self.weight_format = weight_format
        self.batch_invariant = model.batch_invariant
        self._model = model

    @staticmethod
    def load(
        model_dir: Path,
        *,
        weight_format: str = "auto",
        threads: int | None = None,
        kv_cache_bytes: int = 512 * 2**20,
        block_size: int = 16,
        device: str = "cpu",
        native: bool = True,
        random_weights: bool = False,
    ) -> ModelRunner:
        """Load a folder with ``config.json`` and safetensors files.

        ``weight_format`` "auto" is the device's usual one. ``threads`` defaults to torch's number of threads.
        ``native=False`` runs the torch path even where the native kernels work. ``random_weights`` reads only the
        configuration. Keys and values are float32 in the ``float32`` format, else float16, and bfloat16 on ``cuda``.

        Raises:
            UnsupportedModelError, InvalidWeightsError, UnknownWeightFormatError, DeviceError, KVCacheTooSmallError.
        """
        weight_format = weight_format_on(device, weight_format)
        if threads is not None:
            torch.set_num_threads(threads)
        config = ModelConfig.load(model_dir)
        opened: Callable[[], NamedTensors] = partial(Checkpoint, model_dir)
        weights = ModelWeights(config, partial(RandomCheckpoint, device) if random_weights else opened)
        if device == "cuda":
            stored = TokenMajorKVCache(config, size_bytes=kv_cache_bytes, block_size=block_size)
            return ModelRunner(config, stored, GpuModel(config, weights, stored), weight_format)
        dtype = torch.float32 if weight_format == "float32" else torch.float16
        kv = KVCache(config, size_bytes=kv_cache_bytes, block_size=block_size, dtype=dtype)
        library = kernels().library if native and supports(config, block_size) else None
        model: Model
        if library is None:
            model = TorchModel(config, weights, kv, weight_format=weight_format)
        else:
            count = threads or torch.get_num_threads()
            model = NativeModel(config, weights, kv, library, weight_format=weight_format, threads=count)
        return ModelRunner(config, kv, model, weight_format)

    @torch.inference_mode()
    def step(self, batch: Sequence[SequenceSlice]) -> list[torch.Tensor]:
        """Process the slices' new tokens and return, per slice, float32 logits ``[wanted rows, vocab]`` or states.

        Raises ``ValueError`` for positions past the context and for blocks that do not exist.
        """
        flat = FlatBatch.of(batch, self.kv.block_size)
        # The kernels read and write where positions and tables point to, without looking.
        longest = min(self.config.context_length, self.kv.num_blocks * self.kv.block_size)
        if int(flat.positions.max()) >= longest or int(flat.tables.max()) >= self.kv.num_blocks:
            raise ValueError(f"a batch reaches past position {longest - 1} or block {self.kv.num_blocks - 1}")
        return flat.split(self._model.forward(flat))
