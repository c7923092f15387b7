"""Generated tokens to streamed text: whole characters only, nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.serving.tokenizer import ModelTokenizer

_INCOMPLETE = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes in UTF-8, and no token has less than one
_MOST_UNCLEAR = 4 * _LONGEST_CHARACTER


class TextStream:
    """The text of one answer as it grows.

    Text that may turn out to begin a stop string, and bytes that do not yet make a character, are held back.
    """

    def __init__(self, tokenizer: ModelTokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._tokens: list[int] = []
        self._window = 0
        self._read = 0
        self._shown = ""
        self._decoded = ""
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token and return the text that is now certain; sets ``stopped`` when a stop string is complete."""
        self._tokens.append(token)
        piece, end = self._next_piece(), len(self._tokens)
        if not piece or piece.endswith(_INCOMPLETE):
            piece, end = self._given_up(piece)
        if end == self._read:
            return ""
        self._window, self._read = self._read, end
        self._shown = self._tokenizer.decode(self._tokens[self._window : end])
        self._decoded += piece
        return self._send_up_to_stop(len(self._decoded) - self._held())

    def finish(self) -> str:
        """Return the rest: held-back text, and a replacement character for bytes that never made one.

        Sets ``stopped`` where a stop string is in it.
        """
        if self.stopped:
            return ""
        self._decoded += self._next_piece()
        return self._send_up_to_stop(len(self._decoded))

    def _next_piece(self) -> str:
        # Decoded behind the tokens of the piece before, since a decoder treats the start of a text in its own way.
        # `tokenizers.DecodeStream` does the same, but raises once a byte-fallback tokenizer rewrites earlier text
        # after bytes that are no character; here, what was streamed stands.
        return self._tokenizer.decode(self._tokens[self._window :])[len(self._shown) :]

    def _given_up(self, piece: str) -> tuple[str, int]:
        """Return the text that no further token can change, and where the tokens that have it end.

        Tokens that never make a character, or have no text, would else be decoded again with every one that follows.
        """
        end = len(self._tokens)
        if (end - self._read) % _MOST_UNCLEAR:
            return "", self._read
        for cut in range(end - 1, end - 1 - _LONGEST_CHARACTER, -1):
            text = self._tokenizer.decode(self._tokens[self._read : cut])
            if piece == text + self._tokenizer.decode(self._tokens[cut:]):
                return text, cut
        return "", self._read

    def _send_up_to_stop(self, end: int) -> str:
        # A stop string that ends in the new piece may have begun in text held back, never in text already sent.
        starts = [start for text in self._stop if (start := self._decoded.find(text, self._sent)) >= 0]
        self.stopped = bool(starts)
        return self._send(min(starts, default=end))

    def _send(self, end: int) -> str:
        text = self._decoded[self._sent : end]
        self._sent = max(end, self._sent)
        return text

    def _held(self) -> int:
        unsent = len(self._decoded) - self._sent
        longest = 0
        for text in self._stop:
            for length in range(min(len(text) - 1, unsent), longest, -1):
                if self._decoded.endswith(text[:length]):
                    longest = length
                    break
        return longest
