"""Attention on a GPU: all sequences of a step in one kernel, over keys and values gathered from their blocks."""

from __future__ import annotations

from itertools import accumulate
from typing import cast

import torch
from torch.nn.attention.varlen import varlen_attn

from agentsys.serving.torch_engine.batch import FlatBatch
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache


class FlashAttention:
    """Attends in one layer after the other, after that layer's keys and values of the step were stored.

    Source: Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023. Causal masks
    are aligned at the end, so a slice's last token sees everything and the ones before it one less each.
    """

    def __init__(self, batch: FlatBatch, kv: TokenMajorKVCache) -> None:
        self._kv = kv
        counts = [len(piece.token_ids) for piece in batch.slices]
        lengths = [piece.start + count for piece, count in zip(batch.slices, counts, strict=True)]
        device = kv.keys.device
        self._query_starts = _starts(counts, device)
        self._key_starts = _starts(lengths, device)
        self._most_queries, self._most_keys = max(counts), max(lengths)
        self._gathered = self._places(batch, lengths, device)

    def __call__(self, layer: int, queries: torch.Tensor, window: int | None) -> torch.Tensor:
        """Map queries ``[rows, heads, head_dim]`` to ``[rows, heads * head_dim]``; ``window`` None is everything."""
        keys, values = self._kv.gather(layer, self._gathered)
        attended = varlen_attn(
            queries,
            keys,
            values,
            self._query_starts,
            self._key_starts,
            self._most_queries,
            self._most_keys,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=True,
        )
        return cast("torch.Tensor", attended).flatten(1)

    def _places(self, batch: FlatBatch, lengths: list[int], device: torch.device) -> torch.Tensor:
        """Return where in the cache each position of each sequence lies, int32 ``[sum of lengths]``."""
        total = sum(lengths)
        sequences = torch.repeat_interleave(torch.tensor(lengths, device=device), output_size=total)
        positions = torch.arange(total, dtype=torch.int32, device=device) - self._key_starts[sequences]
        return self._kv.places(batch.tables.to(device), sequences, positions)


def _starts(counts: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)
