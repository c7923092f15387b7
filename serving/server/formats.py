"""The bodies of answers: whole ones and the events of a stream, for chat and for text completions.

Source: OpenAI's API reference, the objects ``chat.completion(.chunk)`` and ``text_completion``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from agentsys.serving.requests import Chunk, FinishReason, Usage
from agentsys.serving.server.answers import Answer
from agentsys.serving.server.logprobs import chat_logprobs, text_logprobs

Json = dict[str, Any]


class AnswerFormat(Protocol):
    """How answers to one request are written."""

    def envelope(self, choices: list[Json], usage: Json | None = None, *, streamed: bool = False) -> Json:
        """Return a whole body, or one event of a stream."""
        ...

    def opening(self, index: int) -> list[Json]:
        """Return the first events' choices of answer ``index``."""
        ...

    def piece(self, index: int, chunk: Chunk) -> list[Json]:
        """Return the choices that carry new text."""
        ...

    def ending(self, index: int, answer: Answer) -> list[Json]:
        """Return the choices that end answer ``index``."""
        ...

    def choice(self, index: int, answer: Answer) -> Json:
        """Return the choice of a whole body."""
        ...


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Chat completions whose answers are text."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, choices: list[Json], usage: Json | None = None, *, streamed: bool = False) -> Json:
        kind = "chat.completion.chunk" if streamed else "chat.completion"
        return _envelope(self.id, kind, self.created, self.model, choices, usage)

    def opening(self, index: int) -> list[Json]:
        return [self.part(index, {"role": "assistant", "content": ""})]

    def piece(self, index: int, chunk: Chunk) -> list[Json]:
        return [self.part(index, {"content": chunk.text}, logprobs=chat_logprobs(chunk.logprobs))]

    def ending(self, index: int, answer: Answer) -> list[Json]:
        return [self.part(index, {}, finish_word(answer.finish_reason))]

    def choice(self, index: int, answer: Answer) -> Json:
        message = {"role": "assistant", "content": "".join(answer.text), "refusal": None}
        logprobs = chat_logprobs(answer.logprobs)
        return _choice(index, {"message": message}, finish_word(answer.finish_reason), logprobs)

    def part(self, index: int, delta: Json, finish_reason: str | None = None, logprobs: Json | None = None) -> Json:
        """Return a choice that carries a change of the message."""
        return _choice(index, {"delta": delta}, finish_reason, logprobs)


@dataclass(frozen=True, slots=True)
class TextFormat:
    """Text completions, whose events look like their whole bodies. Each answer begins with its ``echoes``, if any."""

    model: str
    echoes: Sequence[str] = ()
    id: str = field(default_factory=lambda: f"cmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    written: dict[int, int] = field(default_factory=dict)

    def envelope(self, choices: list[Json], usage: Json | None = None, *, streamed: bool = False) -> Json:
        return _envelope(self.id, "text_completion", self.created, self.model, choices, usage)

    def opening(self, index: int) -> list[Json]:
        echo = self._echo(index)
        self.written[index] = len(echo)
        return [_choice(index, {"text": echo}, None)] if echo else []

    def piece(self, index: int, chunk: Chunk) -> list[Json]:
        logprobs = text_logprobs(chunk.logprobs, self.written[index])
        self.written[index] += len(chunk.text)
        return [_choice(index, {"text": chunk.text}, None, logprobs)]

    def ending(self, index: int, answer: Answer) -> list[Json]:
        return [_choice(index, {"text": ""}, finish_word(answer.finish_reason))]

    def choice(self, index: int, answer: Answer) -> Json:
        echo = self._echo(index)
        logprobs = text_logprobs(answer.logprobs, len(echo))
        return _choice(index, {"text": echo + "".join(answer.text)}, finish_word(answer.finish_reason), logprobs)

    def _echo(self, index: int) -> str:
        return self.echoes[index] if self.echoes else ""


def usage_body(usage: Usage) -> Json:
    """Return token counts in OpenAI's words."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_word(reason: FinishReason | None) -> str:
    """Return OpenAI's word for why an answer ended."""
    return "length" if reason is FinishReason.LENGTH else "stop"


def whole_body(form: AnswerFormat, answers: Sequence[Answer], usage: Usage) -> Json:
    """Return the body of a request that is not streamed."""
    return form.envelope([form.choice(index, answer) for index, answer in enumerate(answers)], usage_body(usage))


def _envelope(
    answer_id: str, kind: str, created: int, model: str, choices: list[Json], usage: Json | None
) -> dict[str, Any]:
    body = {"id": answer_id, "object": kind, "created": created, "model": model, "choices": choices}
    return body if usage is None else body | {"usage": usage}


def _choice(index: int, content: Json, finish_reason: str | None, logprobs: Json | None = None) -> Json:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}
