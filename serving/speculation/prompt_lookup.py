"""Prompt lookup: what followed the last few tokens when they last occurred probably follows again.

Source: Saxena, "Prompt lookup decoding" (2023); n-grams of 3, then 2, then 1 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_NGRAM = 3


class PromptLookupSession:
    """Indexes each n-gram's latest continuation as the sequence grows: constant work per new token."""

    def __init__(self, longest: int = LONGEST_NGRAM) -> None:
        self._sizes = range(longest, 0, -1)
        self._continuation: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Sequence[int]:
        """Return the continuation of the longest n-gram of the sequence's end that occurred before, if any."""
        self._index(tokens)
        for size in self._sizes:
            found = self._continuation.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if found is not None:
                return self._copy(tokens, found, limit)
        return ()

    @staticmethod
    def _copy(tokens: Sequence[int], start: int, limit: int) -> Sequence[int]:
        # A copy that runs past the end goes on with itself, so a repetition of period 1 still drafts `limit` tokens.
        period = len(tokens) - start
        return [tokens[start + offset % period] for offset in range(limit)]

    def _index(self, tokens: Sequence[int]) -> None:
        # The n-gram that ends the sequence has no continuation yet, so indexing stops one token short of the end.
        for end in range(max(self._indexed, 1), len(tokens)):
            for size in self._sizes:
                if size <= end:
                    self._continuation[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens))


class PromptLookupDrafter:
    """Opens prompt-lookup sessions."""

    def session(self) -> PromptLookupSession:
        return PromptLookupSession()
