"""Going on with an answer at another replica: the caller sees one answer, and its tokens are counted once.

Three ways, the first that fits: the same tokens continue behind the prompt's (engines that tell token ids and whose
draws depend on seed and position alone); the whole answer is computed again and what was shown is left out (greedy or
seeded calls); raw text is continued as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from agentsys.serving.dispatcher.errors import AnswerInterruptedError
from agentsys.serving.engine import Engine
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Usage
from agentsys.serving.text_stream import TextStream
from agentsys.serving.tokenizer import ModelTokenizer

Transform = Callable[[Chunk], Chunk]


@runtime_checkable
class Resumable(Protocol):
    """An engine that goes on after any prefix of an answer exactly as if it had computed that itself.

    Of the prompt it then gets, the last ``GenerateRequest.answered`` tokens are that prefix.
    """

    @property
    def tokenizer(self) -> ModelTokenizer:
        """What the prompt and the answer are made of."""
        ...

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer and have no text."""
        ...


@dataclass(slots=True)
class Shown:
    """What of an answer the caller has: text, and the token ids where the engine tells them, ``tokens`` in all, of
    ``logprobs`` of which the log-probability.
    """

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    tokens: int = 0
    logprobs: int = 0

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def as_tokens(self) -> bool:
        """Whether the ids of all its tokens are known: an engine that tells none may have begun the answer."""
        return 0 < self.tokens == len(self.token_ids)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk that was shown."""
        self.texts.append(chunk.text)
        self.token_ids.extend(chunk.token_ids)
        self.tokens += len(chunk.token_ids) or len(chunk.logprobs) or (1 if chunk.text else 0)
        self.logprobs += len(chunk.logprobs)


def movable(request: GenerateRequest, engine: Engine) -> bool:
    """Whether ``engine`` continues an answer that an equal one began, without making another answer of it."""
    return request.constraint is None and _repeats(request) and isinstance(engine, Resumable)


def continuation(request: GenerateRequest, shown: Shown, engine: Engine) -> tuple[GenerateRequest, Transform]:
    """Return what to submit to ``engine`` and what makes of its chunks those that the caller still lacks.

    Raises :class:`AnswerInterruptedError` where this very answer cannot be continued.
    """
    if not shown.tokens:
        return request, _unchanged
    if shown.as_tokens and request.constraint is None and isinstance(engine, Resumable):
        tokens = [*engine.tokenizer.encode(request.prompt), *shown.token_ids]
        answered = request.answered + len(shown.token_ids)
        return replace(_behind(request, tokens, shown), answered=answered), _Continuing(request, shown, engine)
    if _repeats(request):
        return request, _Repeating(shown)
    text = _plain_text(request)
    if text is not None:
        return _behind(request, text + shown.text, shown), _counting(shown.tokens)
    raise interrupted(shown)


def continuable(request: GenerateRequest, shown: Shown, engines: Iterable[Engine]) -> bool:
    """Whether :func:`continuation` has a way for one of ``engines``."""
    if not shown.tokens or _repeats(request):
        return True
    as_tokens = shown.as_tokens and any(isinstance(engine, Resumable) for engine in engines)
    return request.constraint is None and (as_tokens or _plain_text(request) is not None)


def interrupted(shown: Shown) -> AnswerInterruptedError:
    """Return the error of an answer that ends in its middle."""
    return AnswerInterruptedError(
        f"{shown.tokens} tokens were shown when the replica broke off, and another would draw others in their place."
    )


def _repeats(request: GenerateRequest) -> bool:
    return request.sampling.temperature == 0.0 or request.sampling.seed is not None


def _plain_text(request: GenerateRequest) -> str | None:
    """Return the prompt if an answer to it goes on as text: penalties would not count what the prompt says."""
    held = request.constraint is not None or request.sampling.penalises
    return request.prompt if isinstance(request.prompt, str) and not held else None


def _behind(request: GenerateRequest, prompt: list[int] | str, shown: Shown) -> GenerateRequest:
    left = max(request.sampling.max_tokens - shown.tokens, 1)
    return replace(request, prompt=prompt, sampling=replace(request.sampling, max_tokens=left))


def _unchanged(chunk: Chunk) -> Chunk:
    return chunk


def _counting(kept: int) -> Transform:
    def counted(chunk: Chunk) -> Chunk:
        return chunk if chunk.usage is None else replace(chunk, usage=_whole(chunk.usage, kept))

    return counted


def _whole(usage: Usage, kept: int) -> Usage:
    """Return the usage of an answer whose first ``kept`` tokens were sent as a part of the prompt."""
    prompt = max(usage.prompt_tokens - kept, 0)
    return replace(
        usage,
        prompt_tokens=prompt,
        cached_tokens=min(usage.cached_tokens, prompt),
        completion_tokens=usage.completion_tokens + kept,
    )


class _Continuing:
    """Makes text of the new tokens behind the old ones, since characters and stop strings may span the two."""

    def __init__(self, request: GenerateRequest, shown: Shown, engine: Resumable) -> None:
        self._kept = len(shown.token_ids)
        self._sent = len(shown.text)
        self._text = TextStream(engine.tokenizer, request.sampling.stop)
        self._ends = frozenset() if request.sampling.ignore_eos else engine.end_token_ids
        self._all = "".join(self._text.push(token) for token in shown.token_ids)

    def __call__(self, chunk: Chunk) -> Chunk:
        taken: list[int] = []
        for token in chunk.token_ids:
            taken.append(token)
            if token not in self._ends:
                self._all += self._text.push(token)
            if self._text.stopped:
                break
        reason = FinishReason.STOP if self._text.stopped else chunk.finish_reason
        if reason is not None:
            self._all += self._text.finish()
        text, self._sent = self._all[self._sent :], max(len(self._all), self._sent)
        usage = None if chunk.usage is None else _whole(chunk.usage, self._kept)
        logprobs = chunk.logprobs[: len(taken)]
        return replace(chunk, text=text, token_ids=tuple(taken), finish_reason=reason, usage=usage, logprobs=logprobs)


class _Repeating:
    """Leaves out what was shown, as long as the repetition says the same."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown.text
        self._tokens_left = len(shown.token_ids)
        self._logprobs_left = shown.logprobs
        self._text = ""

    def __call__(self, chunk: Chunk) -> Chunk:
        before, self._text = self._text, self._text + chunk.text
        common = min(len(self._text), len(self._shown))
        if self._text[:common] != self._shown[:common] or (chunk.finish_reason and common < len(self._shown)):
            raise AnswerInterruptedError(
                f"the answer that a replica broke off after {len(self._shown)} characters came out otherwise elsewhere."
            )
        tokens, logprobs = chunk.token_ids[self._tokens_left :], chunk.logprobs[self._logprobs_left :]
        self._tokens_left -= len(chunk.token_ids) - len(tokens)
        self._logprobs_left -= len(chunk.logprobs) - len(logprobs)
        new = self._text[max(len(before), len(self._shown)) :]
        return replace(chunk, text=new, token_ids=tokens, logprobs=logprobs)
