"""The tensors of a Llama-family checkpoint under the names the forward pass uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from agentsys.serving.torch_engine.model_config import ModelConfig, UnsupportedModelError

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's tensors as stored, ``[out, in]`` for projections."""

    attention_norm: torch.Tensor
    query_key_value: tuple[torch.Tensor, ...]
    query_key_value_biases: tuple[torch.Tensor, ...]
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: torch.Tensor
    feed_forward_norm: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class NamedTensors(Protocol):
    """What a checkpoint is asked: tensors by name, which must have the shape that the configuration says."""

    def __contains__(self, name: str) -> bool: ...
    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor: ...
    def optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None: ...


class ModelWeights:
    """Hands out a checkpoint's tensors layer by layer.

    Each layer opens the checkpoint anew: the pages read for one leave the process's memory with its tensors.
    """

    def __init__(self, config: ModelConfig, open_checkpoint: Callable[[], NamedTensors]) -> None:
        """Look up the tensors outside the layers; raises ``InvalidWeightsError`` where they do not fit ``config``."""
        self._config = config
        self._open = open_checkpoint
        checkpoint = open_checkpoint()
        table = (config.vocab_size, config.hidden_size)
        self.embedding = checkpoint.tensor(EMBEDDING, table)
        self.norm = checkpoint.tensor("model.norm.weight", (config.hidden_size,))
        self.head = self.embedding if config.tie_word_embeddings else checkpoint.tensor("lm_head.weight", table)

    def release(self) -> None:
        """Keep only the embedding, mapped anew."""
        shape = tuple(self.embedding.shape)
        del self.embedding, self.head
        self.embedding = self._open().tensor(EMBEDDING, shape)

    def layer(self, index: int) -> LayerWeights:
        """Return the tensors of one layer.

        Raises:
            InvalidWeightsError: a tensor is absent or misshapen.
            UnsupportedModelError: the layer has a bias that the forward pass does not apply.
        """
        config, checkpoint = self._config, self._open()
        tensor, optional = checkpoint.tensor, checkpoint.optional
        prefix = f"model.layers.{index}."
        attention, feed_forward = prefix + "self_attn.", prefix + "mlp."
        for name in (attention + "o_proj", *(feed_forward + part for part in ("gate_proj", "up_proj", "down_proj"))):
            if f"{name}.bias" in checkpoint:
                raise UnsupportedModelError(f"The model has a bias {name}.bias, which is not supported.")
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        outputs = {
            "q_proj": config.num_heads * dim,
            "k_proj": config.num_kv_heads * dim,
            "v_proj": config.num_kv_heads * dim,
        }
        biases = [optional(f"{attention}{name}.bias", (size,)) for name, size in outputs.items()]
        return LayerWeights(
            attention_norm=tensor(prefix + "input_layernorm.weight", (hidden,)),
            query_key_value=tuple(
                tensor(f"{attention}{name}.weight", (size, hidden)) for name, size in outputs.items()
            ),
            query_key_value_biases=tuple(bias for bias in biases if bias is not None),
            query_norm=optional(attention + "q_norm.weight", (dim,)),
            key_norm=optional(attention + "k_norm.weight", (dim,)),
            output=tensor(attention + "o_proj.weight", (hidden, config.num_heads * dim)),
            feed_forward_norm=tensor(prefix + "post_attention_layernorm.weight", (hidden,)),
            gate=tensor(feed_forward + "gate_proj.weight", (inner, hidden)),
            up=tensor(feed_forward + "up_proj.weight", (inner, hidden)),
            down=tensor(feed_forward + "down_proj.weight", (hidden, inner)),
        )
