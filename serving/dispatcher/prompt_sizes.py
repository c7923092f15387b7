"""How many tokens a prompt has, without the time that a tokenizer takes."""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.serving.requests import Message

_FIRST_GUESS = 4.0  # characters a token, in English
_WEIGHT = 0.1


class PromptSizes:
    """Estimates tokens from characters, by the ratio that the answered prompts of this model had."""

    def __init__(self) -> None:
        self._ratio = _FIRST_GUESS

    def tokens(self, prompt: Sequence[Message] | str | Sequence[int]) -> int:
        """Return the expected number of tokens, at least 1; of token ids the exact one."""
        characters = _characters(prompt)
        return max(len(prompt) if characters is None else round(characters / self._ratio), 1)

    def learn(self, prompt: Sequence[Message] | str | Sequence[int], tokens: int) -> None:
        """Take the count that an engine told; 0 is none."""
        characters = _characters(prompt)
        if characters and tokens > 0:
            self._ratio += _WEIGHT * (characters / tokens - self._ratio)


def _characters(prompt: Sequence[Message] | str | Sequence[int]) -> int | None:
    if isinstance(prompt, str):
        return len(prompt)
    messages = [part for part in prompt[:1] if isinstance(part, Message)]
    if not messages:
        return None
    return sum(len(part.content) for part in prompt if isinstance(part, Message))
