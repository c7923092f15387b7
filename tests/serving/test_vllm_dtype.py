"""The number format that vLLM computes in where none is named."""

from __future__ import annotations

import pytest
import torch

from agentsys.serving.models import EngineOptions, _vllm_options
from agentsys.serving.vllm_engine.loading import best_dtype


@pytest.mark.parametrize(
    ("instructions", "device", "best"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "cpu", "float32"),
        ({"avx512_f": True, "avx512_bf16": True}, "cpu", "bfloat16"),
        ({"neon": True, "bf16": True}, "cpu", "bfloat16"),
        ({}, "cuda", "bfloat16"),
    ],
)
def test_bfloat16_is_not_emulated_unless_that_is_asked_for(
    instructions: dict[str, bool], device: str, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert best_dtype(device) == best


def test_where_torch_cannot_tell_it_is_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert best_dtype("cpu") == "bfloat16"


@pytest.mark.parametrize(
    ("weight_format", "dtype"), [("auto", None), ("int8", None), ("float32", "float32"), ("bfloat16", "bfloat16")]
)
def test_a_format_that_is_named_is_kept(weight_format: str, dtype: str | None) -> None:
    assert _vllm_options(EngineOptions(weight_format=weight_format)).dtype == dtype
