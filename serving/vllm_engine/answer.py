"""One answer of vLLM's: from its outputs to chunks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentsys.errors import ServingError
from agentsys.serving.requests import Chunk, FinishReason, Timings, TokenLogprob, TokenLogprobs, Usage
from agentsys.serving.text_stream import TextStream

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.ABORTED}


class Completion(Protocol):
    """What is read of vLLM's ``CompletionOutput``: tokens since the output before, their log-probabilities if they were
    asked for, and why there will be no more."""

    token_ids: Sequence[int]
    logprobs: Any
    finish_reason: str | None


class Output(Protocol):
    """What is read of vLLM's ``RequestOutput``."""

    outputs: Sequence[Completion]
    num_cached_tokens: int | None
    metrics: Any


@dataclass(slots=True, eq=False)
class VllmAnswer:
    """State of one answer, changed only on the engine's loop. Times are of ``time.perf_counter``.

    ``deliver`` takes chunks, or the error that ends the stream. ``eos_token_ids`` stay out of the text. ``priority`` is
    the key that vLLM is to serve it by, never above ``latest``. ``token_bytes`` spells
    tokens out, of which the ``top`` likeliest are named where log-probabilities were asked for.
    """

    deliver: Callable[[Chunk | ServingError], None]
    latest: int
    priority: int = 0
    token_bytes: Callable[[int], bytes] | None = None
    top: int = 0
    text: TextStream | None = None
    prompt_tokens: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    task: asyncio.Task[None] | None = None
    ended: bool = False
    completion_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    queued: float = 0.0
    submitted_at: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None

    def take(self, output: Output) -> None:
        """Deliver what an output adds; sets ``ended`` with the last chunk."""
        completion = output.outputs[0]
        self._note(output)
        taken: list[int] = []
        pieces: list[str] = []
        stopped = False
        for token in completion.token_ids:
            taken.append(token)
            if token not in self.eos_token_ids:
                pieces.append(self._text.push(token))
            stopped = self._text.stopped
            if stopped:
                break
        self.completion_tokens += len(taken)
        logprobs = self._logprobs(taken, completion.logprobs)
        reason = FinishReason.STOP if stopped else _REASONS.get(completion.finish_reason or "")
        if reason is not None:
            pieces.append(self._text.finish())
            self._end("".join(pieces), taken, reason, logprobs)
        elif taken:
            self.deliver(Chunk("".join(pieces), tuple(taken), logprobs=logprobs))

    def abort(self) -> None:
        """End the stream with what has been generated."""
        if not self.ended:
            self._end("", [], FinishReason.ABORTED)

    def fail(self, error: ServingError) -> None:
        """End the stream with an error."""
        if not self.ended:
            self.ended = True
            self.deliver(error)

    def usage(self) -> Usage:
        """Return the token counts so far."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            preemptions=self.preemptions,
        )

    @property
    def _text(self) -> TextStream:
        assert self.text is not None, "an answer gets its text stream before its first output"
        return self.text

    def _logprobs(self, tokens: Sequence[int], given: Any) -> tuple[TokenLogprobs, ...]:
        if given is None or self.token_bytes is None:
            return ()
        return tuple(self._places(token, place) for token, place in zip(tokens, given, strict=False))

    def _places(self, token: int, place: Mapping[int, Any]) -> TokenLogprobs:
        assert self.token_bytes is not None
        named = {one: TokenLogprob(one, self.token_bytes(one), float(found.logprob)) for one, found in place.items()}
        # vLLM adds the chosen token to the likeliest, where it need not belong.
        ranked = sorted((found.rank, one) for one, found in place.items())
        return TokenLogprobs(named[token], tuple(named[one] for _, one in ranked[: self.top]))

    def _end(
        self, text: str, tokens: Sequence[int], reason: FinishReason, logprobs: tuple[TokenLogprobs, ...] = ()
    ) -> None:
        self.ended = True
        now = time.perf_counter()
        first = (self.first_token_at or now) - self.submitted_at
        timings = Timings(queued=min(self.queued, first), first_token=first, total=now - self.submitted_at)
        self.deliver(Chunk(text, tuple(tokens), reason, self.usage(), timings, logprobs))

    def _note(self, output: Output) -> None:
        if self.first_token_at is None and output.outputs[0].token_ids:
            self.first_token_at = time.perf_counter()
        self.cached_tokens = output.num_cached_tokens or 0
        if output.metrics is not None:
            self.preemptions = output.metrics.num_preemptions
            self.queued = max(0.0, output.metrics.scheduled_ts - output.metrics.queued_ts)
