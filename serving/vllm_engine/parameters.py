"""From our requests to what vLLM takes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from agentsys.serving.requests import GenerateRequest
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS

if TYPE_CHECKING:
    from vllm import SamplingParams

NAME_ARGUMENT: Final = "agentsys_name"
"""Under this name among the extra arguments, our scheduler finds a request's id; vLLM adds a suffix to its own."""

MILLISECONDS: Final = 1000
_SEED_MASK: Final = 2**63 - 1


def sampling_params(request: GenerateRequest, room: int, eos_token_ids: Iterable[int]) -> SamplingParams:
    """Return vLLM's parameters of a request whose answer has ``room`` tokens left in the context."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling, constraint = request.sampling, request.constraint
    fields = {"json_schema": "json", "regex": "regex", "lark": "grammar"}
    structured = None if constraint is None else StructuredOutputsParams(**{fields[constraint.kind]: constraint.source})
    return SamplingParams(
        max_tokens=min(sampling.max_tokens, room),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if sampling.seed is None else sampling.seed & _SEED_MASK,
        ignore_eos=sampling.ignore_eos,
        stop_token_ids=sorted(eos_token_ids),
        structured_outputs=structured,
        logprobs=sampling.logprobs,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={NAME_ARGUMENT: request.request_id},
    )


def latest_priority() -> int:
    """Return the priority of a call that comes now without hurry: nobody waits for ever."""
    return int((time.time() + LONGEST_WAIT_SECONDS) * MILLISECONDS)


def priority(urgency: float, latest: int) -> int:
    """Return κ in vLLM's terms, milliseconds of unix time, at most ``latest``."""
    bound = latest / MILLISECONDS
    return int(max(-bound, min(urgency, bound)) * MILLISECONDS)


def end_token_ids(model_config: Any) -> frozenset[int]:
    """Return the ids that end an answer: those of the model's configuration and of its generation configuration."""
    generation = model_config.try_get_generation_config() or {}
    found: set[int] = set()
    for ids in (getattr(model_config.hf_config, "eos_token_id", None), generation.get("eos_token_id")):
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)
