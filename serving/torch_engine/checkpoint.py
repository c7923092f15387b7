"""Reads named tensors out of a model folder's safetensors files, memory-mapped, whether single or sharded."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from agentsys.errors import ServingError

INDEX_FILE = "model.safetensors.index.json"
_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class InvalidWeightsError(ServingError):
    """The weight files are missing, damaged or do not fit the configuration."""

    code = "AGS-0451"
    remedy = "Pull the model again with `agentsys models pull`, or give a folder with complete safetensors files."


class Checkpoint:
    """All tensors of a model folder by name; a tensor's pages are read from disk when first touched."""

    def __init__(self, model_dir: Path) -> None:
        """Open the folder's files.

        Raises:
            InvalidWeightsError: no safetensors file, a listed shard is missing, or a file is damaged.
        """
        self._model_dir = model_dir
        self._files: dict[str, Any] = {}
        for path in _weight_files(model_dir):
            try:
                opened: Any = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise InvalidWeightsError(f"{path} cannot be read: {error}.") from error
            self._files.update(dict.fromkeys(opened.keys(), opened))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor in its stored type, backed by the file where the type allows it.

        Raises:
            InvalidWeightsError: the tensor is absent, has another shape, or is quantised.
        """
        if name not in self._files:
            raise InvalidWeightsError(f"{self._model_dir} has no tensor {name!r}.")
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise InvalidWeightsError(
                f"Tensor {name!r} has shape {tuple(tensor.shape)}, the configuration says {shape}."
            )
        if tensor.dtype not in _PLAIN:
            # Its numbers mean nothing without the scales beside it, of which every method has its own.
            raise InvalidWeightsError(
                f"Tensor {name!r} of {self._model_dir} is stored as {tensor.dtype}, in a quantised format.",
                remedy="Give the model's weights in bfloat16, float16 or float32, or serve these with vLLM (`vllm:`).",
            )
        return tensor

    def optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return the tensor, or None when the checkpoint has none of that name."""
        return self.tensor(name, shape) if name in self else None


def held_bytes(model_dir: Path, number_bytes: int) -> int:
    """Return what a folder's tensors take where floating-point numbers have ``number_bytes``, and others are as stored.

    Raises:
        InvalidWeightsError: as opening a :class:`Checkpoint`.
    """
    total = 0
    for path in _weight_files(model_dir):
        try:
            with safe_open(path, framework="numpy") as opened:
                slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118 - no dictionary
                total += sum(math.prod(one.get_shape()) * _size(one.get_dtype(), number_bytes) for one in slices)
        except (OSError, SafetensorError) as error:
            raise InvalidWeightsError(f"{path} cannot be read: {error}.") from error
    return total


def _size(stored: str, number_bytes: int) -> int:
    """Return the bytes of one number of a tensor, by its type's name in safetensors, as BF16, F8_E4M3 or BOOL."""
    if stored in ("F64", "F32", "F16", "BF16"):
        return number_bytes
    width = re.search(r"\d+", stored)
    return max(int(width.group()) // 8, 1) if width else 1


def _weight_files(model_dir: Path) -> list[Path]:
    index = model_dir / INDEX_FILE
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InvalidWeightsError(f"{index} is no list of weight files: {error!r}.") from error
        missing = [name for name in names if not (model_dir / name).is_file()]
        if missing:
            raise InvalidWeightsError(f"{index} lists files that are not there: {', '.join(missing)}.")
        return [model_dir / name for name in names]
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise InvalidWeightsError(f"{model_dir} has no *.safetensors file.")
    return files
