"""What a caller asks of the serving layer, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal
from uuid import uuid4

from agentsys.blackboard.labels import Label, Readers


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message in the roles of the OpenAI chat format."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


MOST_LOGPROBS: Final = 20
"""Alternatives that may be asked for beside each token: what OpenAI's format allows."""
MOST_PENALTY: Final = 2.0
MOST_BIAS: Final = 100.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. ``temperature`` 0 is greedy; ``seed`` makes sampling reproducible per request.

    ``logprobs`` asks for the log-probability of every token of the answer and of that many likeliest alternatives
    (0: none of them); ``None`` asks for nothing.

    The penalties are OpenAI's: a token that the answer has n times already loses ``n * frequency_penalty`` and, for
    n > 0, ``presence_penalty`` of its logit; the prompt counts for nothing. ``logit_bias`` is added to the logits of
    the tokens that it names. Neither moves what ``logprobs`` tell.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    @property
    def penalises(self) -> bool:
        """Whether what the answer has said changes what it says next, beside what the model makes of it."""
        return bool(self.presence_penalty or self.frequency_penalty)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and not negative, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ValueError(f"logprobs must be from 0 to {MOST_LOGPROBS}, got {self.logprobs}")
        for name in ("presence_penalty", "frequency_penalty"):
            _check_range(name, getattr(self, name), MOST_PENALTY)
        for token, bias in self.logit_bias.items():
            _check_range(f"logit_bias of token {token}", bias, MOST_BIAS)


def _check_range(name: str, value: float, most: float) -> None:
    if not -most <= value <= most:
        raise ValueError(f"{name} must be from {-most:g} to {most:g}, got {value}")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar that every output must match: a JSON schema (as JSON text), a Lark grammar, or a regular expression."""

    kind: Literal["json_schema", "lark", "regex"]
    source: str


@dataclass(frozen=True, slots=True)
class WorkflowCall:
    """Where a call stands in its workflow: what its urgency, its cost and its fair share are worked out from.

    ``workflow`` is the instance. ``kind``, the workflow's name, and ``stage``, the step that asks, repeat over
    instances, which is how costs are learned. ``tenant`` is whose it is. ``deadline`` and ``arrived`` are unix
    seconds: by when the whole workflow is wanted, and when it came (0: when its first call did). ``urgency`` is κ of
    this call, where the caller says it rather than have it worked out.
    """

    workflow: str
    kind: str = ""
    stage: str = ""
    tenant: str = ""
    deadline: float = math.inf
    arrived: float = 0.0
    urgency: float | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One model call. ``prompt`` is chat messages, raw text, or token ids.

    ``urgency`` is κ, the latest start time of the call in unix seconds: smaller runs first. An engine may treat calls
    without hurry as due some minutes after they came, so that calls with a later κ cannot starve them. A dispatcher
    works κ out of ``call``, where that is given, and of what it has learned of the rest of the workflow.
    ``label`` decides which caches and replicas the call may touch: prefix caches are shared only between requests
    whose labels have the same readers. ``audience`` is whom the caller lets learn the prompt: where that is ``None``,
    those readers. ``adapter`` names the LoRA adapter that the model runs under; prefix caches of different ones are
    apart. ``tags`` say whose call it is, in the caller's words; whoever may see the load of the engines sees them, so
    they name things and hold no content.
    ``answered`` is for an answer that began elsewhere: so many of the last token ids of ``prompt`` belong to it.
    """

    prompt: Sequence[Message] | str | Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    constraint: Constraint | None = None
    urgency: float = math.inf
    label: Label = field(default_factory=Label)
    request_id: str = field(default_factory=lambda: uuid4().hex)
    call: WorkflowCall | None = None
    audience: Readers | None = None
    adapter: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    answered: int = 0


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one call. ``cached_tokens`` of the prompt came from the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting before the first schedule, to the first token, and in all."""

    queued: float = 0.0
    first_token: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability; ``text`` is its bytes, perhaps half a character.

    ``token_id`` is ``None`` where a server elsewhere does not tell it.
    """

    token_id: int | None
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token of an answer, and the likeliest tokens at its place, the likeliest first.

    The probabilities are the model's own, before temperature, ``top_p`` and grammar.
    """

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; the last one carries ``finish_reason``, ``usage`` and ``timings``.

    ``logprobs`` has one item for each token if the request asked for them, and is empty otherwise; ``token_ids`` is
    empty if the engine tells none.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    model: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts, or token ids, whose vectors are wanted. The other fields are those of :class:`GenerateRequest`."""

    prompts: tuple[str | Sequence[int], ...]
    urgency: float = math.inf
    label: Label = field(default_factory=Label)
    request_id: str = field(default_factory=lambda: uuid4().hex)
    call: WorkflowCall | None = None
    audience: Readers | None = None


def learners(request: GenerateRequest | EmbedRequest) -> Readers:
    """Return whom the caller lets learn the prompts."""
    return request.label.readers if request.audience is None else request.audience


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector of length 1 for each prompt, in the order asked; ``prompt_tokens`` counts those of all prompts."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    model: str = ""
