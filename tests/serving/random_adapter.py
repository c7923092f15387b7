"""A LoRA adapter of random weights for a Llama-like model, in PEFT's format; B is not zero, so answers change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def write_adapter(folder: Path, model_dir: Path, seed: int, *, rank: int = 8, **config: Any) -> Path:
    """Write an adapter of the query and value projections; ``config`` stands above what is usual.

    Returns ``folder``.
    """
    model = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    outputs = {"q_proj": hidden, "v_proj": hidden * model["num_key_value_heads"] // heads}
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(model["num_hidden_layers"]):
        for name, size in outputs.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(rank, hidden, generator=draw) * 0.05
            weights[f"{stem}.lora_B.weight"] = torch.randn(size, rank, generator=draw) * 0.05
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    usual = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted(outputs),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(usual | config), encoding="utf-8")
    return folder
