"""A value is taken out of texts and documents however it is written; and out of a stream, wherever it is cut."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agentsys.redaction import LEAST_CHARACTERS, Redactor

VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=LEAST_CHARACTERS, max_size=40)
ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=LEAST_CHARACTERS, max_size=40)
TEXTS = st.text(max_size=30)


def redactor(value: str) -> Redactor:
    return Redactor({"key": [value]})


@given(VALUES, TEXTS, TEXTS)
def test_a_value_is_taken_out_and_the_rest_stays(value: str, before: str, after: str) -> None:
    assume(value not in before + after and value not in (before + "[secret key]" + after))
    assert value not in redactor(value).text(before + value + after)


@pytest.mark.parametrize(
    "encode",
    [
        lambda value: value,
        lambda value: quote(value, safe=""),
        quote_plus,
        lambda value: quote(value, safe="").replace("%2F", "%2f"),
        lambda value: value.encode().hex(),
        lambda value: value.encode().hex().upper(),
        lambda value: value.encode().hex(":"),
        lambda value: json.dumps(value)[1:-1],
        html.escape,
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(f"u:{value}".encode()).decode(),
        lambda value: base64.b64encode(f"user:{value}@host".encode()).decode(),
        lambda value: base64.b64encode(f"users:{value}".encode()).decode(),
    ],
)
@given(ASCII)
@example("s3cr3t/+=&<é>\"'")
def test_in_common_encodings_nothing_can_be_read_back(encode: object, value: str) -> None:
    written = encode(value)  # type: ignore[operator]
    clean = redactor(value).text(f"<<{written}>>")
    assert "[secret key]" in clean
    # At an odd position the characters at base64's ends also belong to the neighbours, and say a bit or so.
    assert written not in clean and len(clean) <= len("<<[secret key]>>") + 2 * 14


@given(VALUES, st.lists(TEXTS, max_size=4), st.lists(st.integers(1, 7), min_size=1, max_size=20))
def test_a_stream_shows_what_the_whole_text_would(value: str, around: list[str], sizes: list[int]) -> None:
    text = value.join(["", *around, ""])
    stream, shown, at, turn = redactor(value).stream(), "", 0, 0
    while at < len(text):
        piece = text[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(piece), turn + 1
        shown += stream.feed(piece)
        assume("[secret key]" in shown or value not in shown)
        assert value not in shown
    shown += stream.end()
    assert value not in shown or value in redactor(value).text(text)


@given(VALUES, st.text(max_size=200))
def test_a_stream_without_a_value_is_left_as_it_is(value: str, text: str) -> None:
    assume(redactor(value).text(text) == text)
    stream = redactor(value).stream()
    assert "".join(map(stream.feed, text)) + stream.end() == text


def test_a_stream_holds_back_no_more_than_may_be_a_beginning() -> None:
    stream = redactor("topsecretvalue").stream()
    assert stream.feed("all of this is shown at once, ") == "all of this is shown at once, "
    assert stream.feed("top") == "" and stream.feed("secret ") == "topsecret "
    assert stream.feed("topsecret") == "" and stream.feed("value!") == "[secret key]!"


def test_documents_are_redacted_in_keys_values_and_numbers() -> None:
    known = Redactor({"a": ["12345678"], "b": ["hunter2hunter2"]})
    document = {"hunter2hunter2": ["x hunter2hunter2 y", 12345678, {"n": 112345678.5}], "left": [None, True, 7, "z"]}
    assert known.json(document) == {
        "[secret b]": ["x [secret b] y", "[secret a]", {"n": "1[secret a].5"}],
        "left": [None, True, 7, "z"],
    }


def test_without_values_everything_is_left() -> None:
    nothing = Redactor({})
    assert nothing.text("x") == "x" and nothing.json([1]) == [1] and nothing.stream().feed("x") == "x"


def test_the_longer_of_two_values_that_begin_alike_is_taken_out_whole() -> None:
    both = Redactor({"short": ["password"], "long": ["password-and-more"]})
    assert both.text("password-and-more password") == "[secret long] [secret short]"


def test_a_stream_cut_within_an_encoded_byte_shows_nothing_of_it() -> None:
    value = "geheïmnis-wort"
    written = quote(value, safe="").replace("%C3%AF", "%c3%af")
    for cut in range(len(written)):
        stream = redactor(value).stream()
        shown = stream.feed(written[:cut]) + stream.feed(written[cut:]) + stream.end()
        assert shown == "[secret key]"
