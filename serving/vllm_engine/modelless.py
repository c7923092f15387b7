"""vLLM's real scheduler, or ours on top of it, without a model: a simulator says how long its steps take.

The blocks, the prefix cache, the chunks and the preemptions are vLLM's own; only the tokens are made up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from agentsys.serving.vllm_engine.preemption import UrgencyLimits
from agentsys.serving.vllm_engine.versions import checked_version

_FIRST_MADE_UP: Final = 1000


@dataclass(frozen=True, slots=True)
class ModellessOptions:
    """``urgency`` None is vLLM's own scheduler under ``policy``; otherwise it is ours. Counts are tokens.

    There are so many ``adapters``, of which ``adapters_at_once`` share a step.
    """

    slots: int = 16
    step_tokens: int = 2048
    kv_tokens: int = 16384
    block_size: int = 16
    context_length: int = 2048
    policy: Literal["fcfs", "priority"] = "priority"
    urgency: UrgencyLimits | None = None
    adapters: int = 0
    adapters_at_once: int = 1


@dataclass(frozen=True, slots=True)
class ModellessStep:
    """What one step held, as in :class:`~agentsys.serving.scheduling.step_time.Iteration`, and what came out of it:
    how many tokens each request got, and which requests ended."""

    prefill_tokens: int
    decoding: int
    context_tokens: int
    tokens: dict[str, int] = field(default_factory=dict)
    ended: tuple[str, ...] = ()


class ModellessScheduler:
    """A scheduler whose requests get one made-up token a step, up to the lengths they were added with."""

    def __init__(self, model_dir: Path, options: ModellessOptions | None = None) -> None:
        """``model_dir`` holds a model's ``config.json``; its weights are not read. Raises ``VllmMissingError`` or
        ``VllmVersionError``."""
        checked_version()
        self.options = options or ModellessOptions()
        self._scheduler, self._hasher = _built(model_dir, self.options)
        self._made_up = 0

    @property
    def scheduler(self) -> Any:
        """vLLM's scheduler itself."""
        return self._scheduler

    def add(
        self,
        name: str,
        prompt: Sequence[int],
        tokens: int,
        *,
        priority: int = 0,
        arrived: float = 0.0,
        adapter: int = 0,
    ) -> None:
        """Queue a request that ends after ``tokens`` tokens. A smaller ``priority`` is served first.

        ``adapter`` is the number of its LoRA adapter, from 1; 0: none.
        """
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.v1.request import Request

        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        self._scheduler.add_request(
            Request(
                request_id=name,
                prompt_token_ids=list(prompt),
                sampling_params=params,
                pooling_params=None,
                arrival_time=arrived,
                priority=priority,
                block_hasher=self._hasher,
                lora_request=LoRARequest(f"adapter {adapter}", adapter, "-") if adapter else None,
            )
        )

    def rekey(self, name: str, priority: int) -> bool:
        """Give a request a new priority; vLLM's own scheduler cannot, and returns False."""
        return self.options.urgency is not None and self._scheduler.rekey(name, priority)

    def abort(self, name: str) -> None:
        from vllm.v1.request import RequestStatus

        self._scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    @property
    def has_work(self) -> bool:
        return bool(self._scheduler.has_unfinished_requests())

    def counts(self) -> tuple[int, int]:
        """Return how many requests run and how many wait."""
        running, waiting = self._scheduler.get_request_counts()
        return int(running), int(waiting)

    def step(self) -> ModellessStep:
        """Schedule one step and end it; empty if nothing can run."""
        from vllm.v1.outputs import ModelRunnerOutput

        output = self._scheduler.schedule()
        ids = list(output.num_scheduled_tokens)
        sampled = [self._sampled(request_id) for request_id in ids]
        prefill, decoding, context = self._held(output.num_scheduled_tokens)
        places = {request_id: place for place, request_id in enumerate(ids)}
        outcome = ModelRunnerOutput(req_ids=ids, req_id_to_index=places, sampled_token_ids=sampled)
        results = self._scheduler.update_from_output(output, outcome)
        made = [made for result in results.values() for made in result.outputs]
        return ModellessStep(
            prefill,
            decoding,
            context,
            {item.request_id: len(item.new_token_ids) for item in made if item.new_token_ids},
            tuple(item.request_id for item in made if item.finish_reason is not None),
        )

    def _sampled(self, request_id: str) -> list[int]:
        request = self._scheduler.requests[request_id]
        if request.num_computed_tokens < request.num_tokens:
            return []
        self._made_up += 1
        return [_FIRST_MADE_UP + self._made_up % _FIRST_MADE_UP]

    def _held(self, scheduled: dict[str, int]) -> tuple[int, int, int]:
        from agentsys.serving.vllm_engine.step_log import contents

        return contents(scheduled, self._scheduler.requests)


def _built(model_dir: Path, options: ModellessOptions) -> tuple[Any, Any]:
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.structured_output import StructuredOutputManager

    config = _configuration(model_dir, options)
    config.cache_config.num_gpu_blocks = options.kv_tokens // options.block_size + 1  # one is vLLM's own
    hash_function = get_hash_fn_by_name(config.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_function)
    made = _scheduler_class(options)(
        vllm_config=config,
        kv_cache_config=_cache_of(config, options),
        structured_output_manager=StructuredOutputManager(config),
        block_size=options.block_size,
        log_stats=False,
    )
    return made, get_request_block_hasher(options.block_size, hash_function)


def _scheduler_class(options: ModellessOptions) -> Any:
    if options.urgency is None:
        from vllm.v1.core.sched.scheduler import Scheduler

        return Scheduler
    from agentsys.serving.vllm_engine import scheduler

    return scheduler.UrgencyScheduler


@cache
def _configuration(model_dir: Path, options: ModellessOptions) -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(model_dir),
        scheduling_policy="priority" if options.urgency is not None else options.policy,
        enforce_eager=True,
        enable_prefix_caching=True,
        block_size=options.block_size,
        max_num_seqs=options.slots,
        max_num_batched_tokens=max(options.step_tokens, options.slots),
        max_model_len=options.context_length,
        async_scheduling=False,
        additional_config={} if options.urgency is None else {"agentsys": options.urgency.as_config()},
        enable_lora=options.adapters > 0,
        max_loras=options.adapters_at_once,
        max_cpu_loras=max(options.adapters, options.adapters_at_once),
    ).create_engine_config()


def _cache_of(config: Any, options: ModellessOptions) -> Any:
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    model, parallel = config.model_config, config.parallel_config
    spec = FullAttentionSpec(
        block_size=options.block_size,
        num_kv_heads=model.get_num_kv_heads(parallel),
        head_size=model.get_head_size(),
        dtype=model.dtype,
    )
    layers = [f"layer.{index}" for index in range(model.get_num_layers(parallel))]
    blocks = config.cache_config.num_gpu_blocks
    return KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(layers, spec)])
