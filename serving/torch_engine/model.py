"""The forward pass of Llama-family models on torch operations, on the CPU or a GPU.

On the CPU it is the reference: it serves where no compiler is at hand and is what the native kernels are tested
against. The residual stream and norms are float32 in every weight format, and so is attention on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from agentsys.serving.torch_engine.attention import Attention, SequenceAttention
from agentsys.serving.torch_engine.batch import FlatBatch, Outputs
from agentsys.serving.torch_engine.flash_attention import FlashAttention
from agentsys.serving.torch_engine.kv_cache import KVCache, TokenMajorKVCache
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
    attention: Attention


class TorchModel:
    """Runs batches of slices where its KV cache is; the same interface as the native model."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, kv: KVCache, *, weight_format: str) -> None:
        """Prepare the layers in ``weight_format`` on the device of ``kv``."""
        self._config = config
        self._kv = kv
        self._device = kv.keys.device
        self._linear = LINEARS[weight_format]
        # Matrix products of floats round differently for each row count; only integer sums do not.
        self.batch_invariant = weight_format == "int8"
        self._embedding = weights.embedding.to(self._device)
        self._layers = [self._prepare(weights.layer(i), config.windows[i]) for i in range(config.num_layers)]
        self._norm = self._float(weights.norm)
        self._head = self._linear(weights.head.to(self._device), None)
        positions = min(config.context_length, kv.num_blocks * kv.block_size)
        cosines, sines = rotary_tables(config.rope, config.head_dim, positions)
        self._cosines, self._sines = cosines.to(self._device), sines.to(self._device)

    def _float(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(device=self._device, dtype=torch.float32)

    def _prepare(self, weights: LayerWeights, window: int | None) -> Layer:
        def linear(parts: Sequence[torch.Tensor], biases: Sequence[torch.Tensor] = ()) -> Linear:
            bias = torch.cat(list(biases)).to(self._device) if biases else None
            return self._linear(torch.cat(list(parts)).to(self._device), bias)

        return Layer(
            attention_norm=self._float(weights.attention_norm),
            query_key_value=linear(weights.query_key_value, weights.query_key_value_biases),
            query_norm=None if weights.query_norm is None else self._float(weights.query_norm),
            key_norm=None if weights.key_norm is None else self._float(weights.key_norm),
            output=linear([weights.output]),
            feed_forward_norm=self._float(weights.feed_forward_norm),
            gate_up=linear([weights.gate, weights.up]),
            down=linear([weights.down]),
            window=window,
        )

    def forward(self, batch: FlatBatch) -> Outputs:
        """Process every row, extend the KV cache, and return the logits and states that are asked for."""
        rows = self._rows(batch)
        hidden = self._embedding[batch.tokens.to(self._device)].to(torch.float32)
        for index, layer in enumerate(self._layers):
            hidden = hidden + layer.output(self._attend(index, layer, hidden, rows))
            gate, up = layer.gate_up(self._normalize(hidden, layer.feed_forward_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate) * up)
        wanted, states = (
            self._normalize(hidden[rows.to(self._device)], self._norm) for rows in (batch.wanted, batch.states)
        )
        logits = self._head(wanted) if len(wanted) else wanted.new_empty(0, self._config.vocab_size)
        return Outputs(logits.cpu(), states.cpu())

    def _rows(self, batch: FlatBatch) -> _Rows:
        kv = self._kv
        positions = batch.positions.to(self._device)
        tables, sequences = batch.tables.to(self._device), batch.sequences.to(self._device)
        return _Rows(
            cosines=self._cosines[positions],
            sines=self._sines[positions],
            blocks=tables[sequences, positions // kv.block_size],
            slots=positions % kv.block_size,
            attention=FlashAttention(batch, kv)
            if isinstance(kv, TokenMajorKVCache)
            else SequenceAttention(batch, kv, one_by_one=self.batch_invariant),
        )

    def _normalize(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight, self._config.rms_norm_eps)

    def _attend(self, index: int, layer: Layer, hidden: torch.Tensor, rows: _Rows) -> torch.Tensor:
        config = self._config
        projected = layer.query_key_value(self._normalize(hidden, layer.attention_norm))
        heads = projected.view(len(projected), -1, config.head_dim)
        queries, keys, values = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = self._normalize(queries, layer.query_norm), self._normalize(keys, layer.key_norm)
        queries, keys = rotate(queries, rows.cosines, rows.sines), rotate(keys, rows.cosines, rows.sines)
        self._kv.write(index, rows.blocks, rows.slots, keys, values)
        return rows.attention(index, queries, layer.window)
