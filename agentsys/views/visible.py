"""Text as it is: what people cannot see, or would take for something else, is written out.

Sources: Unicode Standard Annex 9 (directional controls), Technical Standard 39 (mixed scripts, confusables), and
"Trojan Source", Boucher and Anderson, USENIX Security 2023.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentsys.blackboard.entries import Json
from agentsys.views.texts import value_text

_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that leave no ink, which their categories do not tell."""

_MARKS: Final = "⟨⟩"
"""What encloses a character that is written out; where they stand themselves, they are written out too."""

_LOOKALIKES: Final = frozenset("аеорсухіјѕԁһԛԝЅІЈАВЕКМНОРСТУХαινορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧօոսցհ")
"""Letters of other scripts that look like Latin ones: a word of nothing else passes for a Latin word."""

_WORD: Final = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Visible:
    """A text that can be trusted to look like what it is, and what in it was written out, in words."""

    text: str
    warnings: tuple[str, ...]


def visible(value: Json) -> Visible:
    """Return a value, a string as it is and anything else as JSON, with everything hidden written out."""
    text = value_text(value)
    suspicious = _suspicious(text)
    pieces, warnings = list[str](), dict[str, None]()
    for position, character in enumerate(text):
        why = _why_hidden(character) or suspicious.get(position)
        pieces.append(character if why is None else named(character))
        if why is not None:
            warnings[f"{why}: {named(character)}"] = None
    return Visible("".join(pieces), tuple(warnings))


def named(character: str) -> str:
    """Return a character as its number and name."""
    name = unicodedata.name(character, _NAMES.get(character, ""))
    return f"⟨U+{ord(character):04X}{' ' * bool(name)}{name}⟩"


_NAMES: Final = {"\0": "NULL", "\b": "BACKSPACE", "\r": "CARRIAGE RETURN", "\x1b": "ESCAPE", "\x7f": "DELETE"}


def _why_hidden(character: str) -> str | None:
    if character in "\n\t" or " " <= character <= "~":
        return None
    if character in _MARKS:
        return "mark"
    category = unicodedata.category(character)
    if unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
        return "changes the direction of text"
    if category == "Cf" or character in _BLANK or _is_selector(character):
        return "invisible"
    if category in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp"):
        return "control character"
    return "unusual space" if category == "Zs" else None


def _is_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef" or "᠋" <= character <= "᠏"


def _suspicious(text: str) -> dict[int, str]:
    """Return the positions of letters that may be taken for others, and why."""
    if text.isascii():
        return {}
    found = dict[int, str]()
    for word in _WORD.finditer(text):
        found |= dict(_in_word(word.group(), word.start()))
    return found


def _in_word(word: str, start: int) -> Iterator[tuple[int, str]]:
    scripts = {_script(letter) for letter in word} - {""}
    mixed = len(scripts) > 1 and not scripts <= _TOGETHER
    posing = not mixed and len(word) > 1 and all(letter in _LOOKALIKES for letter in word)
    for position, letter in enumerate(word, start):
        if letter.isascii():
            continue
        plain = unicodedata.normalize("NFKC", letter)
        if plain != letter and plain.isascii():
            yield position, f"looks like {plain}"
        elif mixed:
            yield position, "letter of another script within a word"
        elif posing:
            yield position, "looks like a Latin letter"


_TOGETHER: Final = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})
"""Scripts that are written together."""


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """Return the script of a letter, which its name begins with."""
    if letter.isascii():
        return "LATIN"
    script = unicodedata.name(letter, "").partition(" ")[0]
    return "" if script in ("MODIFIER", "COMBINING", "FEMININE", "MASCULINE", "MICRO") else script
