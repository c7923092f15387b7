"""A step's rows as the layers of a model on a GPU need them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from agentsys.serving.torch_engine.batch import FlatBatch
from agentsys.serving.torch_engine.flash_attention import FlashAttention
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache


@dataclass(frozen=True, slots=True)
class GpuRows:
    """``tokens``, ``positions`` and ``places`` (where keys and values are stored) are int32 ``[rows]``."""

    tokens: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    attention: FlashAttention

    @staticmethod
    def of(batch: FlatBatch, kv: TokenMajorKVCache) -> GpuRows:
        """Move a batch to the device of its KV cache."""
        device = kv.keys.device
        return GpuRows(
            tokens=batch.tokens.to(device),
            positions=batch.positions.to(device),
            places=kv.places(batch.tables, batch.sequences, batch.positions).to(device),
            attention=FlashAttention.of(batch, kv),
        )

    def with_room(self, keys: int, most_keys: int) -> GpuRows:
        """Return a copy in memory of its own that holds up to ``keys`` gathered places, ``most_keys`` a sequence."""
        attention = self.attention
        gathered = attention.gathered.new_zeros(keys)
        gathered[: len(attention.gathered)] = attention.gathered
        return GpuRows(
            self.tokens.clone(),
            self.positions.clone(),
            self.places.clone(),
            replace(attention, key_starts=attention.key_starts.clone(), gathered=gathered, most_keys=most_keys),
        )

    def fill(self, rows: GpuRows) -> None:
        """Overwrite its memory with as many other rows of as many sequences."""
        self.tokens.copy_(rows.tokens)
        self.positions.copy_(rows.positions)
        self.places.copy_(rows.places)
        self.attention.key_starts.copy_(rows.attention.key_starts)
        self.attention.gathered[: len(rows.attention.gathered)] = rows.attention.gathered
