"""The norm of Llama-family models."""

from __future__ import annotations

import torch


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale each row of ``[rows, width]`` to a root mean square of one, then by ``weight`` ``[width]``.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    mean_square = hidden.square().mean(dim=-1, keepdim=True)
    return hidden * torch.rsqrt(mean_square + epsilon) * weight
