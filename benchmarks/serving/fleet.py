"""The engines that the arms run on, each in a process or thread of its own and idle while another is measured."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agentsys.benchmarks.serving.pacing import CPU_SCALE, GPU_SCALE, Scale
from agentsys.errors import ConfigurationError
from agentsys.serving.engine import Engine
from agentsys.serving.weights.pull import pull

Kind = Literal["vllm", "torch"]

KV_CACHE_BYTES: Final = 512 * 2**20
GPU_KV_CACHE_BYTES: Final = 8 * 2**30
ENVIRONMENT: Final = Path(".venv-vllm/bin/python")
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Setting:
    """``slots`` by policy ("fcfs", "priority", "urgency"); ``random_weights`` reads only the model's configuration;
    ``compiled`` is for vLLM on a GPU."""

    kind: Kind
    model: str
    slots: Mapping[str, int]
    device: Literal["cpu", "cuda"] = "cpu"
    random_weights: bool = False
    compiled: bool = True

    @property
    def scale(self) -> Scale:
        """How long the workflows are."""
        return CPU_SCALE if self.device == "cpu" else GPU_SCALE

    @property
    def kv_cache_bytes(self) -> int:
        """What each engine keeps keys and values in."""
        return KV_CACHE_BYTES if self.device == "cpu" else GPU_KV_CACHE_BYTES


def policies(kind: Kind) -> tuple[str, ...]:
    """Return the policies that have an engine: torch has one order, vLLM two of its own."""
    return ("fcfs", "priority", "urgency") if kind == "vllm" else ("fcfs", "urgency")


def start(setting: Setting, policy: str) -> Engine:
    """Start one engine; blocks."""
    return _vllm(setting, policy) if setting.kind == "vllm" else _torch(setting, policy)


def enter_vllm_environment(arguments: Mapping[str, str]) -> None:
    """Start this command again in the environment that has vLLM, unless this one has it.

    ``python`` of the arguments names that environment's interpreter. Raises :class:`ConfigurationError` if there is
    none.
    """
    if importlib.util.find_spec("vllm") is not None:
        return
    python = Path(arguments.get("python") or _ROOT / ENVIRONMENT)
    if not python.exists() or python.resolve() == Path(sys.executable).resolve() == python:
        raise ConfigurationError(
            f"vLLM is not installed here, and there is no {python}.",
            remedy="Run `make setup-vllm`, or name an interpreter that has vLLM with `--set python=PATH`.",
        )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    command = "from agentsys.cli.app import main; main()"
    sys.stderr.flush()
    os.execve(python, [str(python), "-c", command, *sys.argv[1:]], environment)


def _folder(setting: Setting) -> Path:
    folder = Path(setting.model).expanduser()
    return folder if setting.random_weights and folder.is_dir() else pull(setting.model)


def _vllm(setting: Setting, policy: str) -> Engine:
    from agentsys.serving.vllm_engine.engine import VllmEngine
    from agentsys.serving.vllm_engine.loading import VllmOptions

    return VllmEngine(
        _folder(setting),
        VllmOptions(
            scheduling=policy,  # type: ignore[arg-type]  # one of `policies`
            max_batch=setting.slots[policy],
            kv_cache_bytes=setting.kv_cache_bytes,
            random_weights=setting.random_weights,
            compiled=setting.compiled,
        ),
    )


def _torch(setting: Setting, policy: str) -> Engine:
    from agentsys.serving.torch_engine.engine import TorchEngine

    # Drafts would make steps of unlike lengths out of like work.
    return TorchEngine.load(
        _folder(setting),
        drafter=None,
        kv_cache_bytes=setting.kv_cache_bytes,
        max_batch=setting.slots[policy],
        device=setting.device,
        random_weights=setting.random_weights,
    )
