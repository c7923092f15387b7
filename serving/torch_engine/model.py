"""The reference forward pass of Llama-family models on plain torch operations.

It serves where no compiler is at hand and is what the native kernels and the GPU's pass are tested against. The
residual stream, norms and attention are float32 in every weight format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from agentsys.serving.torch_engine.batch import FlatBatch, Outputs
from agentsys.serving.torch_engine.kv_cache import KVCache
from agentsys.serving.torch_engine.model_config import ModelConfig
from agentsys.serving.torch_engine.model_weights import LayerWeights, ModelWeights
from agentsys.serving.torch_engine.rms_norm import rms_norm
from agentsys.serving.torch_engine.rotary import rotary_tables, rotate
from agentsys.serving.torch_engine.weight_formats import LINEARS, Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block, its projections in the chosen weight format."""

    attention_norm: torch.Tensor
    query_key_value: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    feed_forward_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    window: int | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """What every layer needs to know about a batch's rows."""

    cosines: torch.Tensor
    sines: torch.Tensor
    blocks: torch.Tensor
    slots: torch.Tensor


class TorchModel:
    """Runs batches of slices; the same interface as the native model."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, kv: KVCache, *, weight_format: str) -> None:
        """Prepare the layers in ``weight_format``."""
        self._config = config
        self._kv = kv
        self._linear = LINEARS[weight_format]
        # Matrix products of floats round differently for each row count; only integer sums do not.
        self.batch_invariant = weight_format == "int8"
        self._embedding = weights.embedding
        self._layers = [self._prepare(weights.layer(i), config.windows[i]) for i in range(config.num_layers)]
        self._norm = weights.norm.to(torch.float32)
        self._head = self._linear(weights.head, None)
        positions = min(config.context_length, kv.num_blocks * kv.block_size)
        self._cosines, self._sines = rotary_tables(config.rope, config.head_dim, positions)

    def _prepare(self, weights: LayerWeights, window: int | None) -> Layer:
        def linear(parts: Sequence[torch.Tensor], biases: Sequence[torch.Tensor] = ()) -> Linear:
            return self._linear(torch.cat(list(parts)), torch.cat(list(biases)) if biases else None)

        return Layer(
            attention_norm=weights.attention_norm.to(torch.float32),
            query_key_value=linear(weights.query_key_value, weights.query_key_value_biases),
            query_norm=None if weights.query_norm is None else weights.query_norm.to(torch.float32),
            key_norm=None if weights.key_norm is None else weights.key_norm.to(torch.float32),
            output=linear([weights.output]),
            feed_forward_norm=weights.feed_forward_norm.to(torch.float32),
            gate_up=linear([weights.gate, weights.up]),
            down=linear([weights.down]),
            window=window,
        )

    def forward(self, batch: FlatBatch) -> Outputs:
        """Process every row, extend the KV cache, and return the logits and states that are asked for."""
        positions = batch.positions
        rows = _Rows(
            cosines=self._cosines[positions],
            sines=self._sines[positions],
            blocks=batch.tables[batch.sequences, positions // self._kv.block_size],
            slots=positions % self._kv.block_size,
        )
        hidden = self._embedding[batch.tokens].to(torch.float32)
        for index, layer in enumerate(self._layers):
            hidden = hidden + layer.output(self._attend(index, layer, hidden, batch, rows))
            gate, up = layer.gate_up(self._normalize(hidden, layer.feed_forward_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate) * up)
        wanted, states = (self._normalize(hidden[chosen], self._norm) for chosen in (batch.wanted, batch.states))
        logits = self._head(wanted) if len(wanted) else wanted.new_empty(0, self._config.vocab_size)
        return Outputs(logits, states)

    def _normalize(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight, self._config.rms_norm_eps)

    def _attend(self, index: int, layer: Layer, hidden: torch.Tensor, batch: FlatBatch, rows: _Rows) -> torch.Tensor:
        config = self._config
        projected = layer.query_key_value(self._normalize(hidden, layer.attention_norm))
        heads = projected.view(batch.rows, -1, config.head_dim)
        queries, keys, values = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = self._normalize(queries, layer.query_norm), self._normalize(keys, layer.key_norm)
        queries, keys = rotate(queries, rows.cosines, rows.sines), rotate(keys, rows.cosines, rows.sines)
        self._kv.write(index, rows.blocks, rows.slots, keys, values)
        outputs = []
        pieces = torch.split(queries, [len(piece.token_ids) for piece in batch.slices])
        for piece, table, piece_queries in zip(batch.slices, batch.tables, pieces, strict=True):
            length = piece.start + len(piece.token_ids)
            past = self._kv.read(index, table[: -(-length // self._kv.block_size)], length)
            # One query at a time keeps the shapes, and so the rounding, a function of the position alone.
            count = 1 if self.batch_invariant else len(piece_queries)
            for done, group in enumerate(torch.split(piece_queries, count)):
                outputs.append(_attention(group, *past, length=piece.start + done + count, window=layer.window))
        return torch.cat(outputs)


def _attention(
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
