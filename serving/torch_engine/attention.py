"""Attention of one step's rows over all that their sequences have stored, on plain torch operations."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as functional

from agentsys.serving.torch_engine.batch import FlatBatch
from agentsys.serving.torch_engine.kv_cache import KVCache


class Attention(Protocol):
    """Attends in one layer after the other, after that layer's keys and values of the step were stored."""

    def __call__(self, layer: int, queries: torch.Tensor, window: int | None) -> torch.Tensor:
        """Map float32 queries ``[rows, heads, head_dim]`` to ``[rows, heads * head_dim]``; ``window`` None is all."""
        ...


class SequenceAttention:
    """Attends for one sequence after the other in float32; ``one_by_one``: for one query after the other."""

    def __init__(self, batch: FlatBatch, kv: KVCache, *, one_by_one: bool) -> None:
        self._batch = batch
        self._kv = kv
        self._one_by_one = one_by_one

    def __call__(self, layer: int, queries: torch.Tensor, window: int | None) -> torch.Tensor:
        batch, outputs = self._batch, []
        pieces = torch.split(queries, [len(piece.token_ids) for piece in batch.slices])
        for piece, table, piece_queries in zip(batch.slices, batch.tables, pieces, strict=True):
            length = piece.start + len(piece.token_ids)
            past = self._kv.read(layer, table[: -(-length // self._kv.block_size)], length)
            # One query at a time keeps the shapes, and so the rounding, a function of the position alone.
            count = 1 if self._one_by_one else len(piece_queries)
            for done, group in enumerate(torch.split(piece_queries, count)):
                outputs.append(_attend(group, *past, length=piece.start + done + count, window=window))
        return torch.cat(outputs)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, length: int, window: int | None
) -> torch.Tensor:
    """Attend from the last positions before ``length``: ``[rows, heads, dim]`` to ``[rows, heads * dim]``."""
    everything = torch.arange(length, device=keys.device)
    ages = everything[length - len(queries) :, None] - everything
    visible = ages >= 0 if window is None else (ages >= 0) & (ages < window)
    attended = functional.scaled_dot_product_attention(
        queries.transpose(0, 1),
        keys[:, :length].contiguous(),
        values[:, :length].contiguous(),
        attn_mask=visible,
        enable_gqa=True,
    )
    return attended.transpose(0, 1).flatten(1)
