"""Starting vLLM's asynchronous engine as this project needs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from agentsys.errors import ServingError
from agentsys.serving.device_memory import GPU, HOST
from agentsys.serving.torch_engine.checkpoint import held_bytes
from agentsys.serving.vllm_engine import versions
from agentsys.serving.vllm_engine.adapters import Adapter, adapter_arguments, read_adapter
from agentsys.serving.vllm_engine.preemption import ADAPTIVE, UrgencyLimits

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_AS_FITS: Final = -1  # vLLM's word for the longest context that the memory for keys and values holds
# vLLM's 128 on a CPU would make a preempted call compute up to 127 tokens anew, and share prefixes only in such steps.
_CPU_BLOCK_TOKENS: Final = 32
# vLLM starts only where this share of the GPU is free, by default nearly all of it, although `kv_cache_memory_bytes`
# says what it takes: with other engines on the same GPU none would start.
_SHARE_THAT_MUST_BE_FREE: Final = 0.02
_NUMBER_BYTES: Final = {"float32": 4}
_BFLOAT16_INSTRUCTIONS: Final = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls them, on x86-64 and on ARM."""
# Graphs of the steps that only decode, and nothing compiled.
_GRAPHS_ALONE: Final = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
_SCHEDULERS: Final = "agentsys.serving.vllm_engine.scheduler"
_BINDING: Final = "VLLM_CPU_OMP_THREADS_BIND"
_STARTING: Final = threading.Lock()
"""One at a time: vLLM's processes are born with the environment, and each start has its own."""


class VllmLoadError(ServingError):
    """vLLM did not start with this model."""

    code = "AGS-0441"
    remedy = "The cause is in the message or in vLLM's log above; another `model.kv_cache_mib` may help."


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM runs. ``dtype`` None is bfloat16, or float32 on a CPU that would have to emulate it; ``threads`` None is
    all cores; ``context_length`` None is the model's, or what fits the memory for keys and values.

    ``scheduling`` is "urgency", our scheduler within ``urgency``'s limits, or one of vLLM's own policies: "priority",
    by κ as it was at submission and without preemption at the slots, or "fcfs". ``random_weights`` reads the model's
    configuration alone, for measurements of what a model of its shape costs. Without ``compiled`` a GPU runs the model
    as it is written, which is somewhat slower, and the engine starts sooner by the minute that compiling takes; a CPU
    never compiles.

    ``adapters`` are folders of LoRA adapters by the names that calls use, of which ``adapters_at_once`` share a step on
    a GPU; on a CPU all may.
    """

    dtype: str | None = None
    threads: int | None = None
    kv_cache_bytes: int = 512 * 2**20
    max_batch: int = 16
    max_step_tokens: int = 2048
    context_length: int | None = None
    scheduling: Literal["urgency", "priority", "fcfs"] = "urgency"
    urgency: UrgencyLimits = ADAPTIVE
    random_weights: bool = False
    compiled: bool = True
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapters_at_once: int = 8

    @property
    def urgent(self) -> bool:
        """Whether our scheduler runs in vLLM."""
        return self.scheduling == "urgency"


def memory_claims(model_dir: Path, options: VllmOptions) -> dict[str, int]:
    """Return the bytes that vLLM's own process takes for weights, adapters, keys and values, by device.

    Raises ``InvalidWeightsError`` or ``AdapterError``.
    """
    device = _device()
    weights = held_bytes(model_dir, _NUMBER_BYTES.get(options.dtype or best_dtype(device), 2))
    adapters = sum(read_adapter(name, path).size_bytes for name, path in options.adapters.items())
    return {HOST if device == "cpu" else GPU: weights + adapters + options.kv_cache_bytes}


def best_dtype(device: str) -> str:
    """Return the format in which vLLM is fast on "cpu" or "cuda": where it is emulated, bfloat16 is slow."""
    import torch

    tells = getattr(torch.cpu, "get_capabilities", None)  # which vLLM's earlier versions of torch lack
    if device != "cpu" or tells is None:
        return "bfloat16"
    has = tells()
    return "bfloat16" if any(has.get(instruction) for instruction in _BFLOAT16_INSTRUCTIONS) else "float32"


def start(model_dir: Path, options: VllmOptions, adapters: Sequence[Adapter] = ()) -> AsyncLLM:
    """Return a running engine with places for ``adapters``; blocks for about half a minute. Call it on the loop that
    will use the engine.

    Raises ``VllmMissingError``, ``VllmVersionError`` or :class:`VllmLoadError`.
    """
    _set_environment()
    version = versions.checked_version()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    device = _device()
    arguments = AsyncEngineArgs(
        model=str(model_dir),
        dtype=options.dtype or best_dtype(device),
        load_format="dummy" if options.random_weights else "auto",
        enable_prefix_caching=True,
        kv_cache_memory_bytes=options.kv_cache_bytes,
        max_num_seqs=options.max_batch,
        max_num_batched_tokens=max(options.max_step_tokens, options.max_batch),
        max_model_len=options.context_length or _AS_FITS,
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
        **_for_device(options, device),
        **adapter_arguments(adapters, options.adapters_at_once, device),
        **_scheduling(options, ahead=versions.may_run_ahead(version, device)),
    )
    try:
        with _threads_bound(options.threads):
            return AsyncLLM.from_engine_args(arguments)
    except Exception as error:  # vLLM raises whatever its parts raise, and its own process may have died
        raise VllmLoadError(f"vLLM does not start with {model_dir}: {error}.") from error


def _device() -> str:
    from vllm.platforms import current_platform

    return "cpu" if current_platform.is_cpu() else "cuda"


def _for_device(options: VllmOptions, device: str) -> dict[str, Any]:
    if device == "cpu":
        return {"enforce_eager": True, "block_size": _CPU_BLOCK_TOKENS}
    graphs = {} if options.compiled else {"compilation_config": _GRAPHS_ALONE}
    return {"gpu_memory_utilization": _SHARE_THAT_MUST_BE_FREE, **graphs}


def _scheduling(options: VllmOptions, *, ahead: bool) -> dict[str, Any]:
    if not options.urgent:
        return {"scheduling_policy": options.scheduling}
    return {
        "scheduling_policy": "priority",
        # By name, since vLLM's own process imports it; there it also brings the methods that change κ.
        "scheduler_cls": f"{_SCHEDULERS}.{'AsyncUrgencyScheduler' if ahead else 'UrgencyScheduler'}",
        "async_scheduling": ahead,
        "additional_config": {"agentsys": options.urgency.as_config()},
    }


def _set_environment() -> None:
    # Nothing leaves the machine, and the answers of a program are not to be lost among log lines.
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # A fork of a process with running threads (another engine's, say) may hang.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")


@contextmanager
def _threads_bound(threads: int | None) -> Iterator[None]:
    """Let a vLLM that is started in the block have so many cores, unless the environment says which."""
    with _STARTING:
        if threads is None or _BINDING in os.environ or not hasattr(os, "sched_getaffinity"):
            yield
            return
        os.environ[_BINDING] = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
        try:
            yield
        finally:
            del os.environ[_BINDING]  # else the next one would have the cores of this one
