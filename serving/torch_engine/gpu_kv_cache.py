"""The block-paged store of attention keys and values on a GPU."""

from __future__ import annotations

import torch

from agentsys.serving.torch_engine.kv_cache import KVCache
from agentsys.serving.torch_engine.model_config import ModelConfig


class TokenMajorKVCache(KVCache):
    """In the layout whose tokens a kernel reads or writes whole: a token's place is block times block size plus slot.

    ``keys`` and ``values`` are both bfloat16 ``[layers, blocks + 1, block_size, kv_heads, head_dim]``; the last block,
    ``spare_block``, is no sequence's, for rows that only fill a batch up.
    """

    def __init__(self, config: ModelConfig, *, size_bytes: int, block_size: int, device: str = "cuda") -> None:
        """Reserve as the base class does; raises :class:`KVCacheTooSmallError`."""
        self._device = device
        super().__init__(config, size_bytes=size_bytes, block_size=block_size, dtype=torch.bfloat16)

    @property
    def spare_block(self) -> int:
        return self.num_blocks

    def places(self, tables: torch.Tensor, sequences: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the places of ``positions`` in their ``sequences``, both ``[n]``, by block ``tables``."""
        return tables[sequences, positions // self.block_size] * self.block_size + positions % self.block_size

    def store(self, layer: int, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store ``[len(places), kv_heads, head_dim]``."""
        self.keys[layer].flatten(0, 1)[places] = keys
        self.values[layer].flatten(0, 1)[places] = values

    def gather(self, layer: int, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values ``[len(places), kv_heads, head_dim]``."""
        return self.keys[layer].flatten(0, 1)[places], self.values[layer].flatten(0, 1)[places]

    def _reserve(self, config: ModelConfig, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (config.num_layers, self.num_blocks + 1, self.block_size, config.num_kv_heads, config.head_dim)
        keys, values = (torch.zeros(shape, dtype=dtype, device=self._device) for _ in range(2))
        return keys, values
