"""Weight formats and their reference linear layers on plain torch operations.

``float32`` is exact. ``bfloat16`` rounds weights and layer inputs to bfloat16 and accumulates in float32. ``int8``
keeps one scale per output channel and quantises each span of 64 inputs of each row by its own scale: within a span the
products are summed as integers, which is exact, so a row's result cannot depend on its neighbours. One scale for a
whole row would be simpler, but costs SmolLM2-135M 4 % perplexity where spans cost 1 %.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as functional

from agentsys.errors import ServingError

DEFAULT_WEIGHT_FORMAT = "int8"
GPU_WEIGHT_FORMAT = "bfloat16"
INT8_LIMIT = 127.0
SPAN = 64
SMALLEST_SCALE = 1e-10


class UnknownWeightFormatError(ServingError):
    """The engine was asked for a weight format that does not exist."""

    code = "AGS-0452"


class DeviceError(ServingError):
    """The engine was asked to run where it cannot, or in a weight format that cannot run there."""

    code = "AGS-0456"


class Linear(Protocol):
    """Maps float32 ``[rows, in]`` to float32 ``[rows, out]``."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


def quantize_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row symmetrically: int8 ``[rows, n]`` and float32 scales ``[rows, 1]``; values ≈ int8 · scale."""
    values = values.to(torch.float32)
    scales = values.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_SCALE) / INT8_LIMIT
    return torch.round(values / scales).to(torch.int8), scales


class Float32Linear:
    """Weights ``[out, in]`` in float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight.to(torch.float32)
        self._bias = None if bias is None else bias.to(torch.float32)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, self._weight, self._bias)


class BFloat16Linear:
    """Weights and inputs in bfloat16, result float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight.to(torch.bfloat16)
        self._bias = None if bias is None else bias.to(torch.bfloat16)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs.to(torch.bfloat16), self._weight, self._bias).to(torch.float32)


class Int8Linear:
    """Weights int8 with a scale per output channel, inputs int8 with a scale per row and span, sums in int32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        quantized, self._scales = quantize_rows(weight)
        padded = functional.pad(quantized, (0, -weight.shape[1] % SPAN))
        self._spans = [part.t() for part in torch.split(padded, SPAN, dim=1)]
        self._bias = None if bias is None else bias.to(torch.float32)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = torch.zeros(len(inputs), len(self._scales), device=inputs.device)
        padded = functional.pad(inputs, (0, -inputs.shape[1] % SPAN))
        for part, weight in zip(torch.split(padded, SPAN, dim=1), self._spans, strict=True):
            quantized, scales = quantize_rows(part)
            outputs += torch._int_mm(quantized, weight).to(torch.float32) * scales
        outputs *= self._scales.t()
        return outputs if self._bias is None else outputs + self._bias


LINEARS: dict[str, type[Float32Linear] | type[BFloat16Linear] | type[Int8Linear]] = {
    "float32": Float32Linear,
    "bfloat16": BFloat16Linear,
    "int8": Int8Linear,
}


def weight_format_on(device: str, name: str) -> str:
    """Return the weight format that ``name`` or "auto" means on ``device``, "cpu" or "cuda".

    Raises :class:`UnknownWeightFormatError`, and :class:`DeviceError` for a device that is not there or a format that
    does not run on it: the kernels of a GPU attend in bfloat16 only.
    """
    if name not in ("auto", *LINEARS):
        raise UnknownWeightFormatError(
            f"Weight format {name!r} does not exist.", remedy=f"Use one of: auto, {', '.join(LINEARS)}."
        )
    if device == "cpu":
        return DEFAULT_WEIGHT_FORMAT if name == "auto" else name
    if device != "cuda" or not torch.cuda.is_available():
        raise DeviceError(
            f"The torch engine cannot run on {device!r} here.",
            remedy="Use cpu, or cuda on a machine with an NVIDIA GPU and a torch that is built for it.",
        )
    if name not in ("auto", GPU_WEIGHT_FORMAT):
        raise DeviceError(
            f"Weight format {name!r} does not run on a GPU.", remedy=f"Use {GPU_WEIGHT_FORMAT}, or the device cpu."
        )
    return GPU_WEIGHT_FORMAT
