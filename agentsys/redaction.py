"""Redaction: known values, as they are or in the encodings in which they commonly travel, replaced by their names.

It is against accidents, a tool that echoes a header or an error that quotes a URL. A program that holds a value and
wants to let it out can write it in some other way, so who is given one is decided before (:mod:`agentsys.secrets`).
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from agentsys.blackboard.entries import Json

LEAST_CHARACTERS: Final = 8
"""Shorter values could not be told from other text."""

_PERCENT: Final = re.compile("%[0-9A-Fa-f]{1,2}")
"""An encoded byte, or the beginning of one at the end of a piece."""


class Redactor:
    """Replaces values by ``[secret NAME]``. ``values`` are by name; a name may have several, as after a change."""

    def __init__(self, values: Mapping[str, Iterable[str]]) -> None:
        named = {_canonical(form): name for name, held in values.items() for value in held for form in _forms(value)}
        ordered = sorted(named, key=len, reverse=True)
        self._names = named
        self._longest = max((len(form) for form in named), default=0)
        self._firsts = {form[0] for form in named}
        self._pattern = re.compile("|".join(map(_expression, ordered))) if ordered else None

    def text(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"[secret {self._names[_canonical(found[0])]}]", text)

    def json(self, value: Json) -> Json:
        """Return a document with the values in all its texts replaced, keys and numbers included."""
        return value if self._pattern is None else self._document(value)

    def stream(self) -> Stream:
        """Return a filter for a text that comes in pieces, over whose ends a value may be split."""
        return Stream(self)

    def _document(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._document(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._document(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = repr(value)
            redacted = self.text(written)
            return value if redacted == written else redacted
        return value

    def safe_length(self, text: str) -> int:
        """Return how much of ``text`` no value can reach into that goes on after its end."""
        if self._pattern is None:
            return len(text)
        for start in range(max(len(text) - self._longest + 1, 0), len(text)):
            if text[start] in self._firsts and self._begins(text[start:]):
                return start
        return len(text)

    def _begins(self, text: str) -> bool:
        canonical = _canonical(text)
        return any(form.startswith(canonical) for form in self._names)


class Stream:
    """A text in pieces, redacted; what may be the beginning of a value waits for what follows."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown now."""
        text = self._redactor.text(self._held + piece)
        safe = self._redactor.safe_length(text)
        self._held = text[safe:]
        return text[:safe]

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return self._redactor.text(held)


def _canonical(text: str) -> str:
    """Return ``text`` with the digits of percent encodings in upper case: URLs write them either way."""
    return _PERCENT.sub(lambda found: found[0].upper(), text)


def _expression(form: str) -> str:
    return _PERCENT.sub(lambda found: f"(?i:{found[0]})", re.escape(form))


def _forms(value: str) -> Iterator[str]:
    """Return a value as it is, and as JSON, HTML, URLs, hexadecimal digits and base64 write it."""
    raw = value.encode()
    yield value
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value))
    yield from (quote(value, safe=""), quote(value), quote_plus(value), "".join(f"%{byte:02X}" for byte in raw))
    for digits in (raw.hex(), raw.hex(" "), raw.hex(":")):
        yield from (digits, digits.upper())
    yield "".join(f"\\x{byte:02x}" for byte in raw)
    for offset in range(3):
        # As part of a longer text: at each of three positions base64 writes the value in another way, and the
        # characters at its ends also depend on its neighbours.
        start, end = -(-8 * offset // 6), 8 * (offset + len(raw)) // 6
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            yield alphabet(b"\0" * offset + raw)[start:end].decode()
