"""What a model folder's ``config.json`` says, reduced to what the forward pass needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsys.errors import ServingError

SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
SUPPORTED_ROPE_TYPES = ("default", "linear", "llama3")
DEFAULT_ROPE_THETA = 10_000.0


class UnsupportedModelError(ServingError):
    """The folder holds a model that the torch engine cannot run."""

    code = "AGS-0450"
    remedy = (
        f"The torch engine runs these model types: {', '.join(SUPPORTED_MODEL_TYPES)}. "
        "Serve other models with vLLM or any OpenAI-compatible server and give its URL as the model."
    )


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base ``theta``, and the scaling kind with its parameters as the checkpoint states them."""

    theta: float
    kind: str
    parameters: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of one Llama-family model.

    ``windows`` has one item per layer: the number of most recent positions a token may attend to (itself included),
    or None for all. ``context_length`` is in tokens.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    context_length: int
    tie_word_embeddings: bool
    rope: RopeConfig
    windows: tuple[int | None, ...]
    eos_token_ids: frozenset[int]
    bos_token_id: int | None

    @staticmethod
    def load(model_dir: Path) -> ModelConfig:
        """Read ``config.json`` (and ``generation_config.json`` where present) of a model folder.

        Raises:
            UnsupportedModelError: no readable config, an unknown architecture, activation or rope scaling.
        """
        raw = _read_json(model_dir / "config.json")
        if raw is None:
            raise UnsupportedModelError(
                f"{model_dir} has no config.json.", remedy="Give a folder with config.json and *.safetensors files."
            )
        generation = _read_json(model_dir / "generation_config.json") or {}
        return _parse(raw, generation)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} holds {type(content).__name__}, not a JSON object.")
    return content


def _parse(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    model_type = str(raw.get("model_type", "unknown"))
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise UnsupportedModelError(f"Model type {model_type!r} is not supported.")
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"Activation {raw['hidden_act']!r} is not supported, only 'silu' is.")
    try:
        heads = int(raw["num_attention_heads"])
        return ModelConfig(
            model_type=model_type,
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            context_length=int(raw["max_position_embeddings"]),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            rope=_rope(raw),
            windows=_windows(raw, model_type),
            eos_token_ids=_token_ids(raw.get("eos_token_id")) | _token_ids(generation.get("eos_token_id")),
            bos_token_id=raw.get("bos_token_id"),
        )
    except KeyError as error:
        raise UnsupportedModelError(f"config.json of this {model_type} model lacks {error}.") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UnsupportedModelError(f"config.json of this {model_type} model is faulty: {error}.") from error


def _rope(raw: Mapping[str, Any]) -> RopeConfig:
    # transformers 5 writes `rope_parameters`; earlier checkpoints carry `rope_theta` and `rope_scaling`.
    scaling: Mapping[str, Any] = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind not in SUPPORTED_ROPE_TYPES:
        raise UnsupportedModelError(
            f"Rope scaling {kind!r} is not supported, only {', '.join(SUPPORTED_ROPE_TYPES)} are."
        )
    theta = scaling.get("rope_theta") or raw.get("rope_theta") or DEFAULT_ROPE_THETA
    if float(scaling.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModelError("Partial rotary embeddings are not supported.")
    parameters = {name: float(value) for name, value in scaling.items() if isinstance(value, int | float)}
    return RopeConfig(theta=float(theta), kind=kind, parameters=parameters)


def _windows(raw: Mapping[str, Any], model_type: str) -> tuple[int | None, ...]:
    layers = int(raw["num_hidden_layers"])
    window = raw.get("sliding_window")
    uses_window = model_type == "mistral" or bool(raw.get("use_sliding_window", False))
    if model_type == "llama" or not uses_window or window is None:
        return (None,) * layers
    kinds = raw.get("layer_types")
    if kinds is None:
        # Qwen applies the window to the layers above `max_window_layers`; Mistral to all of them.
        first = 0 if model_type == "mistral" else int(raw.get("max_window_layers", 0))
        kinds = ["full_attention"] * first + ["sliding_attention"] * (layers - first)
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)


def _token_ids(value: Any) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list) else frozenset({int(value)})
