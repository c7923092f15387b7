"""LoRA adapters for vLLM: reading what one is, and refusing those that do not fit the model.

Source of the file format: PEFT, ``adapter_config.json`` and ``adapter_model.safetensors``. vLLM itself checks an
adapter only when it is loaded, and pads one that was made for a smaller model instead of refusing it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentsys.errors import ServingError
from agentsys.serving.weights.catalogue import CATALOGUE

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM takes as its largest
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_READS_HIDDEN = re.compile(r"\.(?:q|k|v|qkv|gate|up|gate_up)_proj\.lora_A\.weight$")  # what reads the hidden state
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_FOLDER = re.compile(r"models--.+?--(.+)")


class AdapterError(ServingError):
    """A LoRA adapter cannot be read, or does not fit the model that it was given to."""

    code = "AGS-0443"
    remedy = (
        "Give a folder as PEFT writes it (`save_pretrained`): adapter_config.json and adapter_model.safetensors, made "
        "for this model."
    )


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its name in calls, its folder, its largest rank, the model it says that it was made for, and the
    bytes of its weights."""

    name: str
    path: Path
    rank: int
    base: str
    size_bytes: int


def read_adapter(name: str, path: Path) -> Adapter:
    """Return what the folder's configuration says. Raises :class:`AdapterError`."""
    folder = path.expanduser()
    config = _json_of(folder / _CONFIG, f"adapter {name!r}")
    if not (folder / _WEIGHTS).is_file():
        raise AdapterError(f"adapter {name!r}: {folder} holds no {_WEIGHTS}.")
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(f"adapter {name!r} is of the type {kind}; vLLM runs LORA.")
    try:
        ranks = [int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterError(f"adapter {name!r}: {folder / _CONFIG} gives no rank r: {error!r}.") from error
    base = str(config.get("base_model_name_or_path") or "")
    return Adapter(name, folder.resolve(), max(ranks), base, (folder / _WEIGHTS).stat().st_size)


def checked_adapters(adapters: Mapping[str, Path], model_dir: Path) -> tuple[Adapter, ...]:
    """Return the adapters by name, each of which fits the model folder. Raises :class:`AdapterError`."""
    found = tuple(read_adapter(name, adapters[name]) for name in sorted(adapters))
    for adapter in found:
        _check_rank(adapter)
        _check_base(adapter, model_dir)
        _check_shapes(adapter, model_dir)
    return found


def adapter_arguments(adapters: Sequence[Adapter], at_once: int, device: str) -> dict[str, Any]:
    """Return what vLLM is started with, so that calls of ``at_once`` different adapters can share a step."""
    if not adapters:
        return {}
    rank = max(adapter.rank for adapter in adapters)
    places = min(at_once, len(adapters))
    if device == "cpu":
        # vLLM's operations for CPUs take -1, their mark of tokens without adapter, for the last place: calls of the
        # base model beside others would run under its adapter (vllm-project/vllm#48421). One that stays empty helps.
        places = len(adapters) + 1
    return {
        "enable_lora": True,
        "max_loras": places,
        "max_cpu_loras": max(len(adapters), places),
        "max_lora_rank": next(allowed for allowed in _RANKS if rank <= allowed),
    }


def lora_requests(adapters: Sequence[Adapter]) -> dict[str, LoRARequest]:
    """Return how vLLM is asked for each adapter, by name."""
    if not adapters:
        return {}
    from vllm.lora.request import LoRARequest

    return {
        adapter.name: LoRARequest(adapter.name, number, str(adapter.path))
        for number, adapter in enumerate(adapters, start=1)
    }


def _check_rank(adapter: Adapter) -> None:
    if not 0 < adapter.rank <= _RANKS[-1]:
        raise AdapterError(
            f"adapter {adapter.name!r} has rank {adapter.rank}; vLLM takes at most {_RANKS[-1]}.",
            remedy="Train it with a smaller r, or merge it into its model and serve that.",
        )


def _check_base(adapter: Adapter, model_dir: Path) -> None:
    """Compare names where both are known: an adapter may name a folder of the machine where it was made."""
    ours = _repository_name(model_dir)
    if ours is None or _HUB_ID.fullmatch(adapter.base) is None or Path(adapter.base).exists():
        return
    theirs = adapter.base.rpartition("/")[2]
    if theirs.casefold() != ours.casefold():
        raise AdapterError(
            f"adapter {adapter.name!r} was made for {adapter.base}, and the model is {ours}.",
            remedy="Serve it over the model that it was made for; if that is the same model under another name, "
            f"correct base_model_name_or_path in {adapter.path / _CONFIG}.",
        )


def _repository_name(model_dir: Path) -> str | None:
    """Return a model's name on the hub, without its organisation, if its folder tells."""
    if model_dir.name in CATALOGUE and (model_dir / "agentsys.json").is_file():
        return CATALOGUE[model_dir.name].repository.rpartition("/")[2]
    hub = _HUB_FOLDER.fullmatch(model_dir.parent.parent.name)  # models--ORGANISATION--NAME/snapshots/REVISION
    return None if hub is None else hub[1]


def _check_shapes(adapter: Adapter, model_dir: Path) -> None:
    model = _json_of(model_dir / "config.json", str(model_dir))
    layers, hidden = model.get("num_hidden_layers"), model.get("hidden_size")
    for key, shape in _shapes_of(adapter):
        layer = _LAYER.search(key)
        if layer is not None and isinstance(layers, int) and int(layer[1]) >= layers:
            raise AdapterError(f"adapter {adapter.name!r} has weights for layer {layer[1]}; the model has {layers}.")
        if isinstance(hidden, int) and _READS_HIDDEN.search(key) and shape[-1] != hidden:
            raise AdapterError(
                f"adapter {adapter.name!r} was made for a hidden size of {shape[-1]}; that of the model is {hidden}."
            )


def _shapes_of(adapter: Adapter) -> Iterator[tuple[str, list[int]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter.path / _WEIGHTS, framework="numpy") as weights:
            yield from ((key, weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise AdapterError(f"adapter {adapter.name!r}: {adapter.path / _WEIGHTS} is unreadable: {error}.") from error


def _json_of(path: Path, whose: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise AdapterError(f"{whose}: {path} is not there.") from error
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(f"{whose}: {path} is unreadable: {error}.") from error
    return found
