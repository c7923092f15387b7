"""Rotary position embeddings: the tables of cosines and sines, with the scalings of the supported models."""

from __future__ import annotations

import math

import torch

from agentsys.serving.torch_engine.model_config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Return the rotation per position of each pair of dimensions, float32 ``[head_dim / 2]``."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.parameters["factor"]
    if rope.kind == "llama3":
        return _scale_llama3(frequencies, rope)
    return frequencies


def rotary_tables(rope: RopeConfig, head_dim: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines, each float32 ``[positions, head_dim / 2]``."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse_frequencies(rope, head_dim))
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate ``[rows, heads, head_dim]`` by table rows ``[rows, head_dim / 2]``; halves are paired, as in Llama."""
    first, second = states.chunk(2, dim=-1)
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


def _scale_llama3(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Stretch long wavelengths as Llama 3.1 does: low frequencies by ``factor``, the middle band smoothly."""
    factor = rope.parameters["factor"]
    low, high = rope.parameters["low_freq_factor"], rope.parameters["high_freq_factor"]
    original = rope.parameters["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = torch.where(wavelengths > original / low, frequencies / factor, blended)
    return torch.where(wavelengths < original / high, frequencies, scaled)
