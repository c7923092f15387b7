"""The block-paged store of attention keys and values."""

from __future__ import annotations

import math
import mmap

import torch

from agentsys.errors import ServingError
from agentsys.serving.torch_engine.model_config import ModelConfig


class KVCacheTooSmallError(ServingError):
    """The memory granted to keys and values does not hold a single block."""

    code = "AGS-0453"
    remedy = "Raise the engine's KV-cache size; a few hundred MiB serve small models."


class KVCache:
    """Keys and values of every layer in blocks of ``block_size`` tokens; a sequence owns a list of block ids.

    ``keys`` is ``[layers, blocks, kv_heads, head_dim, block_size]`` (positions innermost, so that scores of a whole
    block fill one vector register) and ``values`` is ``[layers, blocks, kv_heads, block_size, head_dim]``.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        size_bytes: int,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        """Reserve as many blocks as fit in ``size_bytes``, at most what 64 full contexts need.

        Raises:
            KVCacheTooSmallError: not even one block fits.
        """
        per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
        self.block_size = block_size
        self.bytes_per_block = per_token * block_size
        self.num_blocks = min(size_bytes // self.bytes_per_block, 64 * -(-config.context_length // block_size))
        if self.num_blocks < 1:
            raise KVCacheTooSmallError(
                f"{size_bytes} bytes were granted, one block of {block_size} tokens needs {self.bytes_per_block}."
            )
        self.keys, self.values = self._reserve(config, dtype)

    def _reserve(self, config: ModelConfig, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        head = (config.num_layers, self.num_blocks, config.num_kv_heads)
        return (
            _untouched_zeros((*head, config.head_dim, self.block_size), dtype),
            _untouched_zeros((*head, self.block_size, config.head_dim), dtype),
        )

    def write(
        self, layer: int, blocks: torch.Tensor, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Store ``[rows, kv_heads, head_dim]`` at ``(blocks[row], slots[row])``."""
        self.keys[layer][blocks, :, :, slots] = keys.to(self.keys.dtype)
        self.values[layer][blocks, :, slots] = values.to(self.values.dtype)

    def read(self, layer: int, blocks: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first ``length`` keys and values of a block list, float32 ``[kv_heads, length, head_dim]``."""
        keys = self.keys[layer][blocks].permute(1, 0, 3, 2).flatten(1, 2)[:, :length]
        values = self.values[layer][blocks].transpose(0, 1).flatten(1, 2)[:, :length]
        return keys.to(torch.float32), values.to(torch.float32)


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    # Fresh pages from the system are zero and cost nothing until touched; torch.zeros would touch them all.
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
