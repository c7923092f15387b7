"""Starting vLLM's asynchronous engine as this project needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentsys.errors import ServingError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_AS_FITS = -1  # vLLM's word for the longest context that the memory for keys and values holds


class VllmMissingError(ServingError):
    """vLLM is not installed in this environment."""

    code = "AGS-0440"
    remedy = "Install the extra: `pip install 'agentsys-runtime[vllm]'`, or use the in-process engine."


class VllmLoadError(ServingError):
    """vLLM did not start with this model."""

    code = "AGS-0441"
    remedy = "The cause is in the message or in vLLM's log above; another `model.kv_cache_mib` may help."


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM runs. ``threads`` None is all cores; ``context_length`` None is the model's,
    or what fits the memory for keys and values."""

    dtype: str = "bfloat16"
    threads: int | None = None
    kv_cache_bytes: int = 512 * 2**20
    max_batch: int = 16
    max_step_tokens: int = 2048
    context_length: int | None = None


def start(model_dir: Path, options: VllmOptions) -> AsyncLLM:
    """Return a running engine; blocks for about half a minute. Call it on the loop that will use the engine.

    Raises :class:`VllmMissingError` or :class:`VllmLoadError`.
    """
    _set_environment(options)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise VllmMissingError(f"vLLM cannot be imported: {error}.") from error
    arguments = AsyncEngineArgs(
        model=str(model_dir),
        dtype=options.dtype,
        scheduling_policy="priority",
        enforce_eager=True,
        enable_prefix_caching=True,
        kv_cache_memory_bytes=options.kv_cache_bytes,
        max_num_seqs=options.max_batch,
        max_num_batched_tokens=max(options.max_step_tokens, options.max_batch),
        max_model_len=options.context_length or _AS_FITS,
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
    )
    try:
        return AsyncLLM.from_engine_args(arguments)
    except Exception as error:  # vLLM raises whatever its parts raise, and its own process may have died
        raise VllmLoadError(f"vLLM does not start with {model_dir}: {error}.") from error


def _set_environment(options: VllmOptions) -> None:
    # Nothing leaves the machine, and the answers of a program are not to be lost among log lines.
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # A fork of a process with running threads (another engine's, say) may hang.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    if options.threads is not None and hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
