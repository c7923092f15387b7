"""Requests and streamed events in the OpenAI HTTP format, with vLLM's extensions."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from agentsys.errors import ServingError
from agentsys.serving.engine import Capabilities, check_adapter
from agentsys.serving.engine_errors import UnsupportedFeatureError
from agentsys.serving.openai_logprobs import logprobs_fields, parse_logprobs
from agentsys.serving.requests import (
    Constraint,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    Message,
    TokenLogprobs,
    Usage,
)
from agentsys.serving.torch_engine.block_pool import domain_digest

_STRUCTURED_OUTPUT = {"json_schema": "json", "regex": "regex", "lark": "grammar"}
_MILLISECONDS = 1000
MOST_INPUTS = 2048
"""Texts that one request for embeddings may hold: OpenAI's bound."""
_EXTENDED = frozenset({"vllm", "agentsys"})  # who owns the models of servers that take vLLM's extensions
_BROKEN_OFF = frozenset({"abort", "error"})  # vLLM's, of answers that are not whole
_FAULTS_OF_REQUESTS = ("invalid_request_error", "BadRequestError")  # OpenAI's word and vLLM's
_LONGEST_PAUSE_SECONDS = 20.0
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_LARGEST_PRIORITY = 2**53 - 1  # the integers that every JSON reader keeps exactly


class RemoteProtocolError(ServingError):
    """A model server answered in no known form."""

    code = "AGS-0422"
    remedy = "Check that the URL is that of an OpenAI-compatible API and that the server is not behind a login page."


class RemoteRefusedError(ServingError):
    """A model server understood the request and refused it; ``status`` is the HTTP status, if it answered with one."""

    code = "AGS-0421"
    remedy = "Check the model's name, the API key and the request against what the server supports."

    def __init__(self, message: str, *, remedy: str | None = None, status: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class UnsupportedConstraintError(ServingError):
    """A model server cannot decode under this kind of grammar."""

    code = "AGS-0423"
    remedy = "Use the in-process engine or a vLLM server, or give the constraint as a JSON schema."


@dataclass(frozen=True, slots=True)
class Event:
    """What one line of a stream says."""

    text: str = ""
    reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The line ``data: [DONE]``."""


def capabilities_told(entry: dict[str, Any], context_length: int) -> Capabilities:
    """Return what a server says of a model in its list; ``context_length`` is assumed where it does not tell.

    Raises :class:`RemoteProtocolError`.
    """
    extended = str(entry.get("owned_by")) in _EXTENDED
    constraints = entry.get("constraints") or (["json_schema", "regex", "lark"] if extended else ["json_schema"])
    try:
        return Capabilities(
            model=str(entry["id"]),
            context_length=int(entry.get("max_model_len") or context_length),
            constraints=frozenset(str(kind) for kind in constraints),
            priority=bool(entry.get("priority", extended)),
            # A server that does not tell is asked: it refuses by itself, or is found out by its answer.
            logprobs=bool(entry.get("logprobs", True)),
            embeddings=bool(entry.get("embeddings", True)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteProtocolError(f"the server lists a model in no known form ({error!r}): {entry!r:.200}.") from error


def endpoint_and_body(request: GenerateRequest, capabilities: Capabilities) -> tuple[str, dict[str, Any]]:
    """Return path and JSON body of a streamed call.

    Raises :class:`UnsupportedConstraintError` or ``UnsupportedFeatureError``.
    """
    check_adapter(request.adapter, capabilities.adapters, f"{capabilities.model}'s server")
    sampling = request.sampling
    if sampling.logprobs is not None and not capabilities.logprobs:
        raise UnsupportedFeatureError(f"{capabilities.model}'s server tells no log-probabilities.")
    body: dict[str, Any] = {
        "model": capabilities.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
        if value := getattr(sampling, name):
            body[name] = value
    messages = [item for item in request.prompt if isinstance(item, Message)]
    if sampling.logprobs is not None:
        body |= logprobs_fields(sampling.logprobs, chat=bool(messages))
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    body |= _extensions(request, capabilities)
    if request.constraint is not None:
        body |= _constraint(request.constraint, capabilities, chat=bool(messages))
    if messages:
        body["messages"] = [{"role": message.role, "content": message.content} for message in messages]
        return "/chat/completions", body
    body["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    return "/completions", body


async def event_lines(pieces: AsyncIterable[bytes]) -> AsyncGenerator[str]:
    """Yield the lines of a stream of events. Characters that Python takes for the end of a line may stand in a text."""
    unread = b""
    async for piece in pieces:
        *lines, unread = (unread + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    yield unread.decode(errors="replace")


def parse_event(line: str, alternatives: int = 0) -> Event | EndOfStream | None:
    """Read one line of server-sent events; None for lines without data.

    ``alternatives`` is how many tokens are told at most at each one's place. Raises :class:`RemoteProtocolError`, or
    :class:`RemoteRefusedError` where the request turned out to be wrong in the middle of its answer.
    """
    if not line.startswith("data:"):
        if line.lstrip().startswith(("{", "<")):
            raise RemoteProtocolError(f"expected a stream of events, got {line[:200]!r}.")
        return None
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return EndOfStream()
    try:
        content = json.loads(data)
        if content.get("error"):
            raise _reported(content["error"])
        choices = content.get("choices") or [{}]
        delta = choices[0].get("delta")
        text = choices[0].get("text") if delta is None else delta.get("content")
        if not isinstance(text, str | None):
            raise TypeError(f"text of type {type(text).__name__}")
        return Event(
            _characters(text or ""),
            _finish_reason(choices[0].get("finish_reason")),
            _usage(content.get("usage")),
            parse_logprobs(choices[0].get("logprobs"), alternatives),
        )
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise RemoteProtocolError(f"the server sent an event that is not a completion: {data[:200]!r}.") from error


def _reported(error: object) -> ServingError:
    message = f"the server reported an error in its stream: {error}."
    of_request = isinstance(error, dict) and error.get("type") in _FAULTS_OF_REQUESTS
    return RemoteRefusedError(message) if of_request else RemoteProtocolError(message)


def _characters(text: str) -> str:
    """Return ``text`` without halves of surrogate pairs, which JSON can name and nothing else can write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def seconds_to_wait(headers: Mapping[str, str], pause: float) -> float:
    """Return after how many seconds a server asked to be tried again, 20 at most; ``pause`` if it did not say."""
    header = headers.get("retry-after", "")
    if _SECONDS.fullmatch(header):
        pause = float(header)
    else:
        with contextlib.suppress(ValueError, TypeError):  # it is no date, or one without a zone
            pause = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    return min(max(pause, 0.0), _LONGEST_PAUSE_SECONDS)


def embedding_bodies(request: EmbedRequest, capabilities: Capabilities) -> list[tuple[list[int], dict[str, Any]]]:
    """Return the JSON bodies that ask for all vectors, each with the places of its prompts.

    A body holds texts or token ids, and no more than OpenAI's servers take.
    """
    texts = [place for place, prompt in enumerate(request.prompts) if isinstance(prompt, str)]
    tokens = [place for place, prompt in enumerate(request.prompts) if not isinstance(prompt, str)]
    groups = [
        group[start : start + MOST_INPUTS] for group in (texts, tokens) for start in range(0, len(group), MOST_INPUTS)
    ]
    extensions = _extensions(request, capabilities)
    return [(group, {**_embedding_body(request, group, capabilities.model), **extensions}) for group in groups]


def parse_embeddings(content: bytes, count: int) -> tuple[list[tuple[float, ...]], int]:
    """Read an answer with ``count`` vectors: they, scaled to length 1, and the prompts' tokens.

    Raises :class:`RemoteProtocolError`.
    """
    try:
        answer = json.loads(content)
        listed = sorted(answer["data"], key=lambda item: int(item["index"]))
        vectors = [_unit([float(value) for value in item["embedding"]]) for item in listed]
        if [int(item["index"]) for item in listed] != list(range(count)):
            raise ValueError(f"{len(listed)} vectors for {count} texts")
        return vectors, int((answer.get("usage") or {}).get("prompt_tokens") or 0)
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        message = f"the server's answer does not hold {count} embeddings ({error}): {content[:200]!r}."
        raise RemoteProtocolError(message) from error


def _embedding_body(request: EmbedRequest, places: list[int], model: str) -> dict[str, Any]:
    prompts = [request.prompts[place] for place in places]
    plain = [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    return {"model": model, "input": plain, "encoding_format": "float"}


def _unit(vector: list[float]) -> tuple[float, ...]:
    length = math.hypot(*vector)
    if not 0.0 < length < math.inf:
        raise ValueError(f"a vector of length {length}")
    return tuple(value / length for value in vector)


def _extensions(request: GenerateRequest | EmbedRequest, capabilities: Capabilities) -> dict[str, Any]:
    if not capabilities.priority:
        return {}
    # Whether a prefix is cached, which timing tells, is a fact about somebody's prompt.
    return {"priority": _priority(request.urgency), "cache_salt": domain_digest(request.label.readers).hex()}


def _priority(urgency: float) -> int:
    # Smaller goes first, and a request that names none counts as 0: no hurry must be said too.
    return int(max(-_LARGEST_PRIORITY, min(_LARGEST_PRIORITY, urgency * _MILLISECONDS)))


def _constraint(constraint: Constraint, capabilities: Capabilities, *, chat: bool) -> dict[str, Any]:
    is_schema = constraint.kind == "json_schema"
    # Outside chat there is no response_format: only a server that takes vLLM's extensions can be told.
    known = capabilities.constraints if chat or "regex" in capabilities.constraints else frozenset[str]()
    if constraint.kind not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise UnsupportedConstraintError(f"{capabilities.model} takes constraints {listed}, not {constraint.kind}.")
    try:
        source = json.loads(constraint.source) if is_schema else constraint.source
        json.dumps(source, allow_nan=False)  # Python reads numbers that JSON cannot write
    except (ValueError, RecursionError) as error:
        raise UnsupportedConstraintError(f"the json_schema constraint is not JSON: {error}.") from error
    if is_schema and chat:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": source}}}
    return {"structured_outputs": {_STRUCTURED_OUTPUT[constraint.kind]: source}}


def _finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason in _BROKEN_OFF:
        raise RemoteProtocolError(f"the server broke its answer off: its finish reason is {reason!r}.")
    return FinishReason.LENGTH if reason == "length" else FinishReason.STOP


def _usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )
