"""The native forward pass: packs a checkpoint's weights for the kernels and runs batches through them.

Every output element is accumulated by one vector lane in one fixed order, and attention handles one query position at a
time, so in every weight format a row's logits are the same bits whatever else is in the batch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as functional

from agentsys.serving.torch_engine.batch import FlatBatch, Outputs
from agentsys.serving.torch_engine.kernels_abi import NativeBatch, NativeLayer, NativeLinear, NativeModelTable
from agentsys.serving.torch_engine.kv_cache import KVCache
from agentsys.serving.torch_engine.model_config import ModelConfig
from agentsys.serving.torch_engine.model_weights import LayerWeights, ModelWeights
from agentsys.serving.torch_engine.rms_norm import rms_norm
from agentsys.serving.torch_engine.rotary import rotary_tables
from agentsys.serving.torch_engine.weight_formats import LINEARS, quantize_rows

LANES = 16
TILE = 2 * LANES
WIDTH_MULTIPLE = 64
GROUPS = {"float32": 1, "bfloat16": 2, "int8": 4}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.uint8}
WEIGHT_OFFSET = 128
PACKED_ROWS = 64 * TILE


class NativeModel:
    """Runs batches of slices in one native call a step; the same interface as the torch model."""

    batch_invariant = True

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        kv: KVCache,
        library: ctypes.CDLL,
        *,
        weight_format: str,
        threads: int,
    ) -> None:
        """Pack all weights; ``threads`` native threads run each step."""
        self._config = config
        self._library = library
        self._format = weight_format
        # ctypes keeps no references, so every tensor that a pointer names is held here.
        self._held: list[torch.Tensor] = []
        layers = (NativeLayer * config.num_layers)(
            *(self._layer(weights.layer(index), config.windows[index]) for index in range(config.num_layers))
        )
        positions = min(config.context_length, kv.num_blocks * kv.block_size)
        cosines, sines = rotary_tables(config.rope, config.head_dim, positions)
        table = NativeModelTable(
            format=list(LINEARS).index(weight_format),
            layers=config.num_layers,
            hidden=config.hidden_size,
            hidden_padded=_padded(config.hidden_size, WIDTH_MULTIPLE),
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            epsilon=config.rms_norm_eps,
            layer=layers,
            norm=self._vector(weights.norm),
            head=self._linear(weights.head),
            cosines=self._hold(cosines),
            sines=self._hold(sines),
            keys=self._hold(kv.keys),
            values=self._hold(kv.values),
            cache_is_half=int(kv.keys.dtype is torch.float16),
            blocks=kv.num_blocks,
            block_size=kv.block_size,
        )
        self._table, self._layers = table, layers
        self._norm = weights.norm.to(torch.float32)
        self._process = os.getpid()
        self._session = library.agentsys_open(ctypes.byref(table), threads)
        if not self._session:
            raise MemoryError(f"no memory for the kernels' {threads} threads")
        weights.release()
        self._embedding = weights.embedding

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        # A forked child has none of the threads that closing would wait for.
        if session and os.getpid() == self._process:
            self._library.agentsys_close(session)

    def forward(self, batch: FlatBatch) -> Outputs:
        """Process every row, extend the KV cache, and return the logits and states that are asked for."""
        padding = self._table.hidden_padded - self._config.hidden_size
        hidden = functional.pad(self._embedding[batch.tokens].to(torch.float32), (0, padding))
        logits = torch.empty(len(batch.wanted), self._table.head.outputs)
        native = NativeBatch(
            rows=batch.rows,
            positions=batch.positions.data_ptr(),
            sequences=batch.sequences.data_ptr(),
            tables=batch.tables.data_ptr(),
            table_stride=batch.tables.shape[1],
            hidden=hidden.data_ptr(),
            wanted_rows=len(batch.wanted),
            wanted=batch.wanted.data_ptr(),
            logits=logits.data_ptr(),
        )
        if self._library.agentsys_step(self._session, ctypes.byref(native)) != 0:
            raise MemoryError(f"no memory for a step of {batch.rows} tokens")
        # The step leaves the residual stream of every row where it found the embeddings.
        states = rms_norm(hidden[batch.states, : self._config.hidden_size], self._norm, self._config.rms_norm_eps)
        return Outputs(logits[:, : self._config.vocab_size], states)

    def _layer(self, weights: LayerWeights, window: int | None) -> NativeLayer:
        gate, up = (functional.pad(part, (0, 0, 0, -len(part) % LANES)) for part in (weights.gate, weights.up))
        # 16 gate rows, then the 16 up rows that belong to them, so that one tile holds both sides of the product.
        gate_up = torch.stack((gate.view(-1, LANES, gate.shape[1]), up.view(-1, LANES, up.shape[1])), dim=1)
        return NativeLayer(
            attention_norm=self._vector(weights.attention_norm),
            query_norm=None if weights.query_norm is None else self._vector(weights.query_norm),
            key_norm=None if weights.key_norm is None else self._vector(weights.key_norm),
            feed_forward_norm=self._vector(weights.feed_forward_norm),
            query_key_value=self._linear(torch.cat(weights.query_key_value), weights.query_key_value_biases),
            output=self._linear(weights.output),
            gate_up=self._linear(gate_up.flatten(0, 2)),
            down=self._linear(weights.down),
            window=window or 0,
        )

    def _linear(self, weight: torch.Tensor, biases: Sequence[torch.Tensor] = ()) -> NativeLinear:
        outputs, inputs = _padded(len(weight), TILE), _padded(weight.shape[1], WIDTH_MULTIPLE)
        linear = NativeLinear(inputs=inputs, outputs=outputs)
        if biases:
            linear.bias = self._vector(torch.cat(list(biases)))
        group = GROUPS[self._format]
        packed = torch.zeros(outputs // TILE, inputs // group, TILE, group, dtype=DTYPES[self._format])
        scales = []
        # In parts, because a large head in float32 beside its copies would be the peak of the whole program's memory.
        for first in range(0, len(weight), PACKED_ROWS):
            part = weight[first : first + PACKED_ROWS]
            if self._format == "int8":
                part, part_scales = quantize_rows(part)
                scales.append(part_scales.flatten())
                part = part.to(torch.int16).add_(WEIGHT_OFFSET)
            part = functional.pad(part, (0, inputs - part.shape[1], 0, -len(part) % TILE))
            tile = first // TILE
            packed[tile : tile + len(part) // TILE] = part.view(-1, TILE, inputs // group, group).transpose(1, 2)
        if scales:
            linear.scales = self._vector(torch.cat(scales))
        linear.weights = self._hold(packed)
        return linear

    def _vector(self, values: torch.Tensor) -> int:
        return self._hold(functional.pad(values.to(torch.float32), (0, -len(values) % WIDTH_MULTIPLE)))

    def _hold(self, tensor: torch.Tensor) -> int:
        tensor = tensor.contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()


def supports(config: ModelConfig, block_size: int) -> bool:
    """Tell whether the kernels handle these shapes: heads and blocks must fill whole vectors."""
    return config.head_dim % LANES == 0 and block_size % LANES == 0


def _padded(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple
