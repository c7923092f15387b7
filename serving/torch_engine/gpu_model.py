"""The forward pass of Llama-family models on a GPU, in bfloat16 and in as few operations as can be.

A step of a small batch is bound by how fast operations are launched, not by what they compute: hence a fused norm,
rotation of queries and keys together as complex numbers, residuals added inside the matrix products, and one attention
kernel for all sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from agentsys.serving.torch_engine.batch import FlatBatch, Outputs
from agentsys.serving.torch_engine.decode_graphs import CudaGraphs, DecodeGraphs, Record
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache
from agentsys.serving.torch_engine.gpu_rows import GpuRows
from agentsys.serving.torch_engine.model_config import ModelConfig
from agentsys.serving.torch_engine.model_weights import LayerWeights, ModelWeights
from agentsys.serving.torch_engine.rotary import rotary_tables


@dataclass(frozen=True, slots=True)
class _Layer:
    """One transformer block; ``output`` and ``down`` are ``[in, out]``, the other projections ``[out, in]``."""

    attention_norm: torch.Tensor
    query_key_value: torch.Tensor
    query_key_value_bias: torch.Tensor | None
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: torch.Tensor
    feed_forward_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    window: int | None


class GpuModel:
    """Runs batches of slices on the device of its KV cache; the same interface as the other models."""

    batch_invariant = False

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, kv: TokenMajorKVCache, record: Record | None = None
    ) -> None:
        """Move all weights to the device. Steps that only decode are recorded with ``record``, by default on a GPU."""
        self._config = config
        self._kv = kv
        self._device = kv.keys.device
        self._embedding = self._held(weights.embedding)
        self._layers = [self._prepare(weights.layer(i), config.windows[i]) for i in range(config.num_layers)]
        self._norm = self._held(weights.norm)
        self._head = self._embedding if weights.head is weights.embedding else self._held(weights.head)
        positions = min(config.context_length, kv.num_blocks * kv.block_size)
        tables = rotary_tables(config.rope, config.head_dim, positions)
        self._rotations = torch.complex(*tables).unsqueeze(1).to(self._device)
        if record is None and self._device.type == "cuda":
            record = CudaGraphs()
        self._graphs = None if record is None else DecodeGraphs(self._every_logit, kv, record)

    def forward(self, batch: FlatBatch) -> Outputs:
        """Process every row, extend the KV cache, and return the logits and states that are asked for, on the CPU."""
        logits = None if self._graphs is None else self._graphs.logits(batch)
        if logits is not None:
            return Outputs(_to_cpu(logits), torch.empty(0, self._config.hidden_size))
        hidden = self._hidden(GpuRows.of(batch, self._kv))
        wanted, states = (self._final(hidden[chosen.to(self._device)]) for chosen in (batch.wanted, batch.states))
        return Outputs(_to_cpu(functional.linear(wanted, self._head)), _to_cpu(states))

    def _every_logit(self, rows: GpuRows) -> torch.Tensor:
        return functional.linear(self._final(self._hidden(rows)), self._head)

    def _final(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._normalize(hidden, self._norm)

    def _hidden(self, rows: GpuRows) -> torch.Tensor:
        """Return the states ``[rows, hidden]`` after the last layer, and extend the KV cache."""
        hidden = self._embedding[rows.tokens]
        rotations = self._rotations[rows.positions]
        for index, layer in enumerate(self._layers):
            attended = self._attend(index, layer, hidden, rows, rotations)
            hidden = torch.addmm(hidden, attended, layer.output)
            normalized = self._normalize(hidden, layer.feed_forward_norm)
            gate, up = functional.linear(normalized, layer.gate_up).chunk(2, dim=-1)
            hidden = torch.addmm(hidden, functional.silu(gate) * up, layer.down)
        return hidden

    def _attend(
        self, index: int, layer: _Layer, hidden: torch.Tensor, rows: GpuRows, rotations: torch.Tensor
    ) -> torch.Tensor:
        config = self._config
        normalized = self._normalize(hidden, layer.attention_norm)
        projected = functional.linear(normalized, layer.query_key_value, layer.query_key_value_bias)
        heads = projected.view(len(projected), -1, config.head_dim)
        turned, values = torch.split(heads, [config.num_heads + config.num_kv_heads, config.num_kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = torch.split(turned, [config.num_heads, config.num_kv_heads], dim=1)
            turned = torch.cat(
                (self._normalize(queries, layer.query_norm), self._normalize(keys, layer.key_norm)), dim=1
            )
        queries, keys = torch.split(_rotate(turned, rotations), [config.num_heads, config.num_kv_heads], dim=1)
        self._kv.store(index, rows.places, keys, values)
        return rows.attention(index, queries, layer.window)

    def _normalize(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._config.rms_norm_eps)

    def _prepare(self, weights: LayerWeights, window: int | None) -> _Layer:
        dim = self._config.head_dim
        query, key, value = weights.query_key_value
        biases = weights.query_key_value_biases
        turned = [*(_pairs_together(part, dim) for part in biases[:2]), *biases[2:]]
        norms = (weights.query_norm, weights.key_norm)
        query_norm, key_norm = (None if norm is None else self._held(_pairs_together(norm, dim)) for norm in norms)
        return _Layer(
            attention_norm=self._held(weights.attention_norm),
            query_key_value=self._held(_pairs_together(query, dim), _pairs_together(key, dim), value),
            query_key_value_bias=self._held(*turned) if turned else None,
            query_norm=query_norm,
            key_norm=key_norm,
            output=self._held(weights.output).t(),
            feed_forward_norm=self._held(weights.feed_forward_norm),
            gate_up=self._held(weights.gate, weights.up),
            down=self._held(weights.down).t(),
            window=window,
        )

    def _held(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.to(device=self._device, dtype=torch.bfloat16) for part in parts])


def _pairs_together(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the outputs of each head so that the two that are rotated together, half a head apart, are neighbours.

    Queries and keys are reordered alike, so their products stay what they were.
    """
    halves = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).flatten(0, 2)


def _to_cpu(values: torch.Tensor) -> torch.Tensor:
    # Half the bytes are moved this way round.
    return values.cpu().to(torch.float32)


def _rotate(heads: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Rotate ``[rows, heads, head_dim]``, whose pairs are neighbours, by complex ``[rows, 1, head_dim / 2]``."""
    pairs = torch.view_as_complex(heads.to(torch.float32).view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotations).flatten(-2).to(heads.dtype)
