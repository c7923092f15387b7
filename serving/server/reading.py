"""From a request's body to what the engines are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.serving.openai_format import MOST_INPUTS
from agentsys.serving.requests import Constraint, EmbedRequest, GenerateRequest, Message, SamplingParams, WorkflowCall
from agentsys.serving.server.errors import InvalidRequestError, UnsupportedFieldError
from agentsys.serving.server.schemas import (
    ChatCompletionBody,
    CompletionBody,
    EmbeddingBody,
    StructuredOutputs,
)
from agentsys.serving.server.tools import Toolbox, conversation

CLIENT_READERS = Readers.of("openai-client")
"""Who may read what HTTP clients send: themselves. So no prefix cached for a run tells them anything, nor theirs it."""

_DEFAULT_COMPLETION_TOKENS = 16
_DEFAULT_TEMPERATURE = 1.0
_MOST_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """What a body's reader has to know: κ and place of the request, the length of an answer that names none, and which
    grammars and whether log-probabilities the engine has."""

    urgency: float
    call: WorkflowCall | None
    default_tokens: int
    constraints: frozenset[str]
    logprobs: bool


def chat_requests(body: ChatCompletionBody, toolbox: Toolbox | None, reading: Reading) -> list[GenerateRequest]:
    """Return one request for each choice; raises :class:`InvalidRequestError`.

    A ``response_format`` says how an answer in text looks; where both are given, a call that is not required yields.
    """
    constraint = _chat_constraint(body)
    if toolbox is not None and (constraint is None or toolbox.required):
        constraint = toolbox.constraint(reading.constraints)
    messages = conversation(body.messages, toolbox)
    limit = body.max_completion_tokens or body.max_tokens or reading.default_tokens
    return _choices(body, [messages], limit, constraint, reading)


def completion_requests(
    body: CompletionBody, prompts: Sequence[str | list[int]], reading: Reading
) -> list[GenerateRequest]:
    """Return one request for each of the prompts and choices, prompt by prompt.

    Raises :class:`InvalidRequestError`.
    """
    constraint = _structured(body.structured_outputs)
    return _choices(body, prompts, body.max_tokens or _DEFAULT_COMPLETION_TOKENS, constraint, reading)


def completion_prompts(body: CompletionBody) -> list[str | list[int]]:
    """Return the texts to continue; raises :class:`InvalidRequestError`."""
    return prompts_of(body.prompt, "prompt", _MOST_PROMPTS)


def _choices(
    body: ChatCompletionBody | CompletionBody,
    prompts: Sequence[Sequence[Message] | str | Sequence[int]],
    limit: int,
    constraint: Constraint | None,
    reading: Reading,
) -> list[GenerateRequest]:
    if body.wanted_logprobs is not None and not reading.logprobs:
        raise UnsupportedFieldError("this model's engine tells no log-probabilities.", param="logprobs")
    sampling = SamplingParams(
        max_tokens=limit,
        temperature=_DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=body.stops,
        ignore_eos=body.ignore_eos,
        logprobs=body.wanted_logprobs,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
    )
    label = Label(readers=_readers(body.cache_salt))
    return [
        GenerateRequest(
            prompt,
            _choice_sampling(sampling, choice),
            constraint,
            reading.urgency,
            label,
            call=reading.call,
            audience=PUBLIC,  # whoever asks for a model by name sends the prompt to wherever that is
        )
        for prompt in prompts
        for choice in range(body.n)
    ]


def _choice_sampling(sampling: SamplingParams, choice: int) -> SamplingParams:
    # One seed for all choices would make them equal.
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + choice)


def _readers(salt: str | None) -> Readers:
    return CLIENT_READERS if salt is None else Readers.of(f"openai-client:{salt}")


def prompts_of(prompt: str | list[int] | list[str] | list[list[int]], param: str, most: int) -> list[str | list[int]]:
    """Return the prompts of a field that holds one, or a list of up to ``most``; raises ``InvalidRequestError``."""
    if isinstance(prompt, str):
        return [prompt]
    tokens = [item for item in prompt if isinstance(item, int)]
    if tokens:
        return [tokens]
    prompts = [item for item in prompt if not isinstance(item, int)]
    if not 0 < len(prompts) <= most:
        raise InvalidRequestError(f"{param}: from 1 to {most} are taken, got {len(prompts)}.", param=param)
    return prompts


def echoes_of(body: CompletionBody) -> list[str]:
    """Return what each answer begins with: its prompt, where ``echo`` says so, else nothing."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    return [str(prompt) for prompt in prompts for _ in range(body.n)] if body.echo else []


def embed_request(body: EmbeddingBody, urgency: float, call: WorkflowCall | None) -> EmbedRequest:
    """Return what the engine is asked; raises :class:`InvalidRequestError`."""
    prompts = prompts_of(body.input, "input", MOST_INPUTS)
    if not all(prompts):
        raise InvalidRequestError("input: an empty text has no vector.", param="input")
    label = Label(readers=_readers(body.cache_salt))
    return EmbedRequest(tuple(prompts), urgency, label, call=call, audience=PUBLIC)


def _chat_constraint(body: ChatCompletionBody) -> Constraint | None:
    form = body.response_format
    if form is None or form.type == "text":
        return _structured(body.structured_outputs)
    if body.structured_outputs is not None:
        raise InvalidRequestError(
            "response_format and structured_outputs both name a grammar.", param="response_format"
        )
    schema = {"type": "object"} if form.json_schema is None else form.json_schema.definition
    return Constraint("json_schema", json.dumps(schema))


def _structured(outputs: StructuredOutputs | None) -> Constraint | None:
    if outputs is None:
        return None
    if outputs.regex is not None:
        return Constraint("regex", outputs.regex)
    if outputs.grammar is not None:
        return Constraint("lark", outputs.grammar)
    schema = outputs.schema_
    return Constraint("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
