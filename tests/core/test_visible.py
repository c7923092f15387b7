"""What people cannot see, or would take for something else, is written out; ordinary text is left alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.views.visible import named, visible

PLAIN = [
    "hello\n\tworld",
    "naïve café, 50 µm",
    "Привет, мир",
    "Ελληνικά και αγγλικά: email",
    "日本語テスト",
    "한국어",
    "שלום",
    "a + b = c; ½ ≤ 1",
    "👧 family",
]
HIDDEN = {
    "a\u202eb": "RIGHT-TO-LEFT OVERRIDE",
    "a\u2066b": "LEFT-TO-RIGHT ISOLATE",
    "zero\u200bwidth": "ZERO WIDTH SPACE",
    "soft\u00adhyphen": "SOFT HYPHEN",
    "a\u3164b": "HANGUL FILLER",
    "no\u00a0break": "NO-BREAK SPACE",
    "bell\x07": "U+0007",
    "escape\x1b[2K": "ESCAPE",
    "tag\U000e0041": "TAG LATIN CAPITAL LETTER A",
    "selector\ufe0f": "VARIATION SELECTOR-16",
    "p\u0430ypal.com": "CYRILLIC SMALL LETTER A",
    "\u0440\u0430\u0443\u0440\u0430\u0443": "CYRILLIC SMALL LETTER ER",
    "\uff50aypal": "FULLWIDTH LATIN SMALL LETTER P",
    "\U0001d429aypal": "MATHEMATICAL BOLD SMALL P",
    "line\u2028separator": "LINE SEPARATOR",
    "\ud800": "U+D800",
}


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text_is_left_alone(text: str):
    assert (visible(text).text, visible(text).warnings) == (text, ())


@pytest.mark.parametrize("text", HIDDEN, ids=ascii)
def test_what_is_hidden_is_written_out_and_said(text: str):
    shown = visible(text)
    assert HIDDEN[text] in shown.text and any(HIDDEN[text] in warning for warning in shown.warnings)
    shown.text.encode()


@given(st.text(alphabet=st.characters(), max_size=30))
def test_nothing_invisible_is_left_and_nothing_is_lost(text: str):
    shown = visible(text).text
    for character in shown:
        assert unicodedata.category(character) not in ("Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        assert character in "\n\t" or unicodedata.category(character) != "Cc"
    # The marks themselves are written out, so what is shown tells any two texts apart.
    back = shown
    for character in set(text):
        back = back.replace(named(character), character)
    assert back == text


def test_parts_of_a_value_are_written_out_too():
    shown = visible({"to": ["\u2066ann", {"p\u0430y": 1}]})
    assert (
        "LEFT-TO-RIGHT ISOLATE" in shown.text and "CYRILLIC SMALL LETTER A" in shown.text and len(shown.warnings) == 2
    )
