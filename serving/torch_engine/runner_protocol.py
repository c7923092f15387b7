"""What the engine loop needs of a model: the shape that ``ModelRunner`` has and that tests script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from agentsys.serving.torch_engine.batch import SequenceSlice


class RunnerConfig(Protocol):
    """Constants of the model."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def eos_token_ids(self) -> frozenset[int]: ...


class BlockStore(Protocol):
    """Shape of the KV cache."""

    @property
    def block_size(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...


class Runner(Protocol):
    """Runs one batched step. ``batch_invariant``: a sequence's logits do not depend on what else is in the step."""

    @property
    def config(self) -> RunnerConfig: ...
    @property
    def kv(self) -> BlockStore: ...
    @property
    def batch_invariant(self) -> bool: ...

    def step(self, batch: Sequence[SequenceSlice]) -> list[torch.Tensor]:
        """Return, per slice, float32 logits ``[wanted rows, vocab]``, or last hidden states ``[rows, hidden]``."""
        ...
