"""How a model call's sampling is put on record: in a form that stays as it is when sampling parameters are added."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from agentsys.blackboard.entries import Json
from agentsys.serving.requests import SamplingParams
from agentsys.tools import to_json

_ALWAYS: Final = frozenset({"max_tokens", "temperature", "top_p", "seed", "stop", "ignore_eos"})
_ONCE_ALWAYS: Final = (
    frozenset({"logprobs"}),
    frozenset({"logprobs", "presence_penalty", "frequency_penalty", "logit_bias"}),
)
"""What runs were recorded with, beside ``_ALWAYS``, at its default too, for a while. Nothing is added here."""


def sampling_forms(sampling: SamplingParams) -> list[Json]:
    """Return how the sampling is recorded, and then the other ways in which it was recorded once.

    Parameters that came after the first runs count only where they are not at their defaults.
    """
    given: dict[str, Any] = asdict(sampling)
    usual: dict[str, Any] = asdict(type(sampling)())
    changed = _ALWAYS | {name for name in given if given[name] != usual[name]}
    return [to_json({name: given[name] for name in changed | more}) for more in (frozenset[str](), *_ONCE_ALWAYS)]
