"""Weights drawn at random, for measuring a model's shape where its weights are not at hand."""

from __future__ import annotations

from zlib import crc32

import torch

_DEVIATION = 0.02  # the initializer range of Llama


class RandomCheckpoint:
    """Has every tensor that is asked for, bfloat16 on ``device``; the same name is always given the same numbers."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __contains__(self, name: str) -> bool:
        return False

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return normal draws for a matrix, ones for a vector, which is the weight of a norm."""
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16, device=self._device)
        generator = torch.Generator(self._device).manual_seed(crc32(name.encode()))
        drawn = torch.randn(shape, generator=generator, dtype=torch.bfloat16, device=self._device)
        return drawn.mul_(_DEVIATION)

    def optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return None: a random model has no biases and no norms of queries and keys."""
        return None
