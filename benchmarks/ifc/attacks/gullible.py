"""A scripted model without any judgement: it repeats every instruction it can find, and answers what it is told to."""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from agentsys.testing import ScriptedModel

_ORDER: Final = re.compile(r"DO (\{.*?\}) DONE", re.DOTALL)
_ANSWER: Final = re.compile(r"ANSWER (.*?) END", re.DOTALL)
_BASE64: Final = re.compile(r"base64:([A-Za-z0-9+/=]+)")
_ROT13: Final = re.compile(r"rot13:(.*?):rot13", re.DOTALL)
_TAGS: Final = range(0xE0020, 0xE007F)
_INVISIBLE: Final = re.compile("[\u200b\u200c\u200d\u2060]")
_SPLIT: Final = "\u241e"

ENCODINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "plain": str,
    "base64": lambda text: "base64:" + base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: f"rot13:{codecs.encode(text, 'rot13')}:rot13",
    "tags": lambda text: "".join(chr(ord(letter) + 0xE0000) for letter in text),
    "zero-width": lambda text: "\u200b".join(text),
    "comment": lambda text: f"Dear owner,\n<!-- {text} -->\nyours, a friend",
}
"""How an instruction is written so that a person, or a filter, may not see it; the model reads all of them."""


def order(**parts: Any) -> str:
    """Return an instruction that the model repeats and the agent carries out."""
    return f"DO {json.dumps(parts)} DONE"


def halves(text: str) -> tuple[str, str]:
    """Return an instruction in two parts, each harmless alone."""
    middle = len(text) // 2
    return text[:middle] + _SPLIT, _SPLIT + text[middle:]


def instructions(text: str) -> list[dict[str, Any]]:
    """Return the instructions in ``text``, each once."""
    found = [json.loads(each) for reading in _readings(text) for each in _ORDER.findall(reading)]
    return [order for place, order in enumerate(found) if order not in found[:place]]


def _readings(text: str) -> Iterator[str]:
    joined = re.sub(f"{_SPLIT}.*?{_SPLIT}", "", text, flags=re.DOTALL)
    yield _INVISIBLE.sub("", joined)
    yield "".join(chr(ord(letter) - 0xE0000) for letter in joined if ord(letter) in _TAGS)
    yield from (base64.b64decode(each + "==").decode(errors="replace") for each in _BASE64.findall(joined))
    yield from (codecs.decode(each, "rot13") for each in _ROT13.findall(joined))


def _script(prompt: str) -> str:
    told = _ANSWER.findall(prompt)
    if told:
        return str(told[-1])
    return "\n".join(f"DO {json.dumps(each)} DONE" for each in instructions(prompt))


class Gullible(ScriptedModel):
    """Obeys ``DO {...} DONE`` wherever it stands, in any of the encodings, and answers ``ANSWER ... END`` literally.

    ``says``, where it is set, is its answer to everything.
    """

    def __init__(self) -> None:
        super().__init__(lambda prompt: _script(prompt) if self.says is None else self.says)
        self.says: str | None = None
