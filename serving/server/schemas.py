"""The bodies of requests: OpenAI's fields that our engines fulfil, and extensions.

Source: OpenAI's API reference (chat completions, completions); ``priority``, ``structured_outputs``, ``ignore_eos`` and
``cache_salt`` are vLLM's; where a request stands in its workflow is ours.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentsys.serving.requests import MOST_BIAS, MOST_LOGPROBS, MOST_PENALTY
from agentsys.serving.server.errors import UnsupportedFieldError
from agentsys.serving.server.places import PlaceFields

MOST_CHOICES = 8
Salt = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-MOST_PENALTY, le=MOST_PENALTY, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-MOST_BIAS, le=MOST_BIAS, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0)]
_LARGEST_INTEGER = 2**63 - 1

_WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Fields that change no token here, and are taken in silence as OpenAI's own servers take them."""

_NEUTRAL: dict[str, Any] = {"best_of": 1, "modalities": ["text"], "repetition_penalty": 1, "top_k": -1}


class TextPart(BaseModel):
    """A part of a message's content; pictures and sound are refused."""

    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    """A call that an assistant made in an earlier turn; ``arguments`` is JSON text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class FunctionDefinition(BaseModel):
    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(BaseModel):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BaseModel):
    name: str


class NamedToolChoice(BaseModel):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str = "answer"
    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What every answer must match; a grammar holds it, so no answer can fail to."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _named(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema goes with a json_schema, and no other type does")
        return self


class StructuredOutputs(BaseModel):
    """vLLM's way to name a grammar: one of a JSON schema, a regular expression, a Lark grammar."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    schema_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if sum(value is not None for value in (self.schema_, self.regex, self.grammar)) != 1:
            raise ValueError("exactly one of json, regex and grammar must be given")
        return self


class StreamOptions(BaseModel):
    include_usage: bool = False


class RequestBody(PlaceFields):
    """What every request understands. ``cache_salt`` names who shares cached prefixes with it. A field that is null is
    one that was left out: some clients send all fields that they know."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    cache_salt: Salt | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, body: object) -> object:
        if isinstance(body, bytes):  # what FastAPI leaves unread, such as what curl sends as a form
            raise ValueError("the body is read as JSON under Content-Type: application/json alone")
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half of a surrogate pair, which is no character") from error
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    def check_fields(self) -> None:
        """Raise :class:`UnsupportedFieldError` for a field that would change the answer, such as ``dimensions``."""
        check_extra(self)


class GenerationBody(RequestBody):
    """What both kinds of completion understand."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_LARGEST_INTEGER - 1, le=_LARGEST_INTEGER)] | None = None
    stop: str | list[str] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class ChatCompletionBody(GenerationBody):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives to each token are asked for; ``None``: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _top_of_something(self) -> ChatCompletionBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs")
        return self


class CompletionBody(GenerationBody):
    """The body of ``POST /v1/completions``; ``prompt`` is text, token ids, or a list of either."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives to each token are asked for; ``None``: no log-probabilities at all."""
        return self.logprobs

    @model_validator(mode="after")
    def _echo_of_text(self) -> CompletionBody:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs do not go together: no engine tells the probabilities of a prompt")
        if self.echo and not (isinstance(self.prompt, str) or all(isinstance(item, str) for item in self.prompt)):
            raise ValueError("echo is for prompts that are text")
        return self


class EmbeddingBody(RequestBody):
    """The body of ``POST /v1/embeddings``; ``input`` is text, token ids, or a list of either."""

    input: str | list[int] | list[str] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"


def check_extra(body: BaseModel) -> None:
    """Raise :class:`UnsupportedFieldError` for a field that would change the answer and that no engine has."""
    for name, value in (body.model_extra or {}).items():
        neutral = value in (None, False, 0, "", [], {}) or _NEUTRAL.get(name) == value
        if not neutral and name not in _WITHOUT_EFFECT:
            raise UnsupportedFieldError(f"{name} is not supported.", param=name)
