"""One request being answered: choosing its tokens, growing its text, knowing when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from agentsys.errors import ServingError
from agentsys.serving.constraints import TokenMatcher
from agentsys.serving.requests import Chunk, FinishReason, Timings, TokenLogprobs, Usage
from agentsys.serving.speculation.draft_length import Acceptance
from agentsys.serving.speculation.drafter import Draft, DraftSession
from agentsys.serving.text_stream import TextStream
from agentsys.serving.torch_engine.logprobs import LogprobReader
from agentsys.serving.torch_engine.sampling import Logits, Sampler
from agentsys.serving.torch_engine.sequence import SequenceState
from agentsys.serving.torch_engine.token_bias import TokenBias

_FORCED_EXPECTED = 0.95  # the model may cut text that a grammar forces into other tokens than the canonical ones


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """State of one answer. ``deliver`` takes chunks, or the error that ends the stream, from the engine's thread.

    ``eos_token_ids`` is empty for requests that ignore the end token. ``acceptance`` estimates how often drafts are
    right by their source; ``draft_source`` made the current one. Times are of ``time.perf_counter``.
    """

    sequence: SequenceState
    sampler: Sampler
    text: TextStream
    eos_token_ids: frozenset[int]
    deliver: Callable[[Chunk | ServingError], None]
    matcher: TokenMatcher | None = None
    session: DraftSession | None = None
    logprobs: LogprobReader | None = None
    bias: TokenBias | None = None
    finish_reason: FinishReason | None = None
    drafted: int = 0
    accepted: int = 0
    acceptance: dict[str, Acceptance] = field(default_factory=dict)
    draft_source: str = ""
    submitted_at: float = field(default_factory=time.perf_counter)
    scheduled_at: float | None = None
    first_token_at: float | None = None
    _unsent_text: str = ""
    _unsent_tokens: list[int] = field(default_factory=list)
    _unsent_logprobs: list[TokenLogprobs] = field(default_factory=list)

    def advance(self, logits: Logits, draft: Sequence[int]) -> list[int]:
        """Return the new tokens of one step: the drafted ones that the model chooses too, and one more.

        ``logits`` has the shape ``[len(draft) + 1, vocab]``. Each token is chosen as if no draft existed, from the row
        after its predecessor; a row counts only while every drafted token before it was the one chosen.
        """
        tokens: list[int] = []
        for row in range(len(draft) + 1):
            token = self._choose(logits[row], len(self.sequence.tokens) + len(tokens))
            tokens.append(token)
            if self.logprobs is not None:
                self._unsent_logprobs.append(self.logprobs.read(logits[row], token))
            self._take(token, len(self.sequence.tokens) + len(tokens))
            if self.finish_reason is not None or row == len(draft) or token != draft[row]:
                break
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self.drafted += len(draft)
        self.accepted += len(tokens) - 1
        return tokens

    def propose(self, limit: int) -> Draft | None:
        """Return the next tokens guessed: those the grammar forces, else the drafter's that the grammar allows."""
        if self.session is None:
            return None
        if self.matcher is None:
            return self.session.propose(self.sequence.tokens, limit)
        forced = self.matcher.forced()
        if forced:
            return Draft(forced[:limit], "forced", _FORCED_EXPECTED)
        draft = self.session.propose(self.sequence.tokens, limit)
        if draft is None:
            return None
        return replace(draft, tokens=draft.tokens[: self.matcher.valid_prefix(draft.tokens)])

    def send(self) -> None:
        """Deliver what is new; the last chunk carries reason, usage and timings."""
        ended = self.finish_reason is not None
        if not ended and not self._unsent_text:
            return
        chunk = Chunk(
            self._unsent_text,
            tuple(self._unsent_tokens),
            self.finish_reason,
            self.usage() if ended else None,
            self._timings() if ended else None,
            tuple(self._unsent_logprobs),
        )
        self._unsent_text, self._unsent_tokens, self._unsent_logprobs = "", [], []
        self.deliver(chunk)

    def abort(self) -> None:
        """End the stream with what has been generated."""
        self.finish_reason = FinishReason.ABORTED
        self.send()

    def usage(self) -> Usage:
        """Return the token counts so far."""
        sequence = self.sequence
        return Usage(
            prompt_tokens=sequence.prompt_length,
            cached_tokens=sequence.cached_tokens or 0,
            completion_tokens=len(sequence.tokens) - sequence.prompt_length,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            preemptions=sequence.preemptions,
        )

    def _choose(self, logits: Logits, position: int) -> int:
        if self.bias is not None:
            logits = self.bias.applied(logits)
        allowed = None if self.matcher is None else self.matcher.allowed()
        return self.sampler.choose(logits, allowed, position)

    def _take(self, token: int, length: int) -> None:
        self._unsent_tokens.append(token)
        if self.bias is not None:
            self.bias.count(token)
        if token not in self.eos_token_ids:  # not every tokenizer marks its end token as special
            self._unsent_text += self.text.push(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        complete = self.matcher is not None and self.matcher.is_complete
        if token in self.eos_token_ids or self.text.stopped or complete:
            self.finish_reason = FinishReason.STOP
        elif length >= self.sequence.limit:
            self.finish_reason = FinishReason.LENGTH
        if self.finish_reason is not None:
            self._unsent_text += self.text.finish()

    def _timings(self) -> Timings:
        now = time.perf_counter()
        return Timings(
            queued=(self.scheduled_at or now) - self.submitted_at,
            first_token=(self.first_token_at or now) - self.submitted_at,
            total=now - self.submitted_at,
        )
