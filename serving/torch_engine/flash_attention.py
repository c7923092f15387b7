"""Attention on a GPU: all sequences of a step in one kernel, over keys and values gathered from their blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch.nn.attention.varlen import varlen_attn

from agentsys.serving.torch_engine.batch import FlatBatch
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """Attends in one layer after the other, after that layer's keys and values of the step were stored.

    Source: Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023. Causal masks
    are aligned at the end, so a slice's last token sees everything and the ones before it one less each.

    ``query_starts`` and ``key_starts`` are int32 ``[sequences + 1]``. ``gathered``, int32, says where in the cache each
    position of each sequence lies; what lies past the last of ``key_starts`` belongs to nobody.
    """

    kv: TokenMajorKVCache
    query_starts: torch.Tensor
    key_starts: torch.Tensor
    gathered: torch.Tensor
    most_queries: int
    most_keys: int

    @staticmethod
    def of(batch: FlatBatch, kv: TokenMajorKVCache) -> FlashAttention:
        """Prepare for a batch."""
        counts = [len(piece.token_ids) for piece in batch.slices]
        lengths = [piece.start + count for piece, count in zip(batch.slices, counts, strict=True)]
        device = kv.keys.device
        key_starts = _starts(lengths, device)
        total = sum(lengths)
        sequences = torch.repeat_interleave(torch.tensor(lengths, device=device), output_size=total)
        positions = torch.arange(total, dtype=torch.int32, device=device) - key_starts[sequences]
        gathered = kv.places(batch.tables.to(device), sequences, positions)
        return FlashAttention(kv, _starts(counts, device), key_starts, gathered, max(counts), max(lengths))

    def __call__(self, layer: int, queries: torch.Tensor, window: int | None) -> torch.Tensor:
        """Map queries ``[rows, heads, head_dim]`` to ``[rows, heads * head_dim]``; ``window`` None is everything."""
        keys, values = self.kv.gather(layer, self.gathered)
        attended = varlen_attn(
            queries,
            keys,
            values,
            self.query_starts,
            self.key_starts,
            self.most_queries,
            self.most_keys,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=True,
        )
        return cast("torch.Tensor", attended).flatten(1)


def _starts(counts: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)
