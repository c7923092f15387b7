from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from agentsys.serving.text_stream import TextStream
from agentsys.serving.tokenizer import ModelTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir) -> ModelTokenizer:
    return ModelTokenizer(tiny_model_dir)


def stream(tokenizer: ModelTokenizer, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    """Feed the text byte by byte, as the tiny tokenizer cuts it; stop as the engine does."""
    receiver = TextStream(tokenizer, stop)
    pieces = []
    for token in tokenizer.encode(text):
        pieces.append(receiver.push(token))
        if receiver.stopped:
            break
    pieces.append(receiver.finish())
    return pieces, receiver


def test_a_character_of_several_bytes_comes_whole(tokenizer: ModelTokenizer) -> None:
    pieces, _ = stream(tokenizer, "a€😀b")
    assert [piece for piece in pieces if piece] == ["a", "€", "😀", "b"]


def test_bytes_that_never_make_a_character_become_a_replacement_at_the_end(tokenizer: ModelTokenizer) -> None:
    receiver = TextStream(tokenizer)
    first, second, *_ = tokenizer.encode("€")
    assert receiver.push(first) == ""
    assert receiver.push(second) == ""
    assert set(receiver.finish()) == {"\ufffd"}


def test_a_stop_string_and_what_follows_it_is_never_sent(tokenizer: ModelTokenizer) -> None:
    pieces, receiver = stream(tokenizer, "one END two", ("END",))
    assert "".join(pieces) == "one "
    assert receiver.stopped


def test_a_stop_string_before_half_a_character_is_not_sent_at_the_end(tmp_path) -> None:
    alphabet = {text: index for index, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    split = {"\u010a\u00e2\u0122": len(alphabet)}  # a line's end and two of the three bytes of a quotation mark
    backend = Tokenizer(models.BPE(vocab=alphabet | split, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    receiver = TextStream(ModelTokenizer(tmp_path), ("\n",))
    assert receiver.push(alphabet["a"]) == "a"
    assert receiver.push(len(alphabet)) + receiver.finish() == ""
    assert receiver.stopped


def test_the_beginning_of_a_stop_string_is_held_and_released_if_it_goes_on_otherwise(tokenizer: ModelTokenizer) -> None:
    receiver = TextStream(tokenizer, ("abc",))
    assert [receiver.push(token) for token in tokenizer.encode("xabab")] == ["x", "", "", "ab", ""]
    assert receiver.finish() == "ab"


@pytest.mark.parametrize("stop", [("aab",), ("b", "ab"), ("", "ba")])
def test_the_earliest_stop_string_wins(tokenizer: ModelTokenizer, stop: tuple[str, ...]) -> None:
    text = "aaabab"
    ends = [text.find(item) for item in stop if item]
    pieces, _ = stream(tokenizer, text, stop)
    assert "".join(pieces) == text[: min(end for end in ends if end >= 0)]


@given(
    text=st.text(alphabet=st.sampled_from("abcé😀 "), min_size=1, max_size=20),
    stop=st.lists(st.text(alphabet=st.sampled_from("abcé"), min_size=1, max_size=3), max_size=3),
)
def test_streamed_text_is_the_text_before_the_first_stop_string_to_complete(
    text: str, stop: list[str], tiny_model_dir
) -> None:
    pieces, _ = stream(ModelTokenizer(tiny_model_dir), text, tuple(stop))
    completions = [(text.find(item) + len(item), text.find(item)) for item in stop if item in text]
    end = min((done for done, _ in completions), default=None)
    expected = text if end is None else text[: min(start for done, start in completions if done == end)]
    assert "".join(pieces) == expected


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    """A tokenizer as Llama 2's and Mistral's: words with a space mark, and bytes for all else."""
    words = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "a", "b", "é"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    folder = tmp_path_factory.mktemp("byte-fallback")
    tokenizer.save(str(folder / "tokenizer.json"))
    return ModelTokenizer(folder)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(129, 261), max_size=15))
def test_no_bytes_break_the_stream_of_a_byte_fallback_tokenizer(byte_fallback, tokens) -> None:
    stream = TextStream(byte_fallback)
    text = "".join(stream.push(token) for token in tokens) + stream.finish()
    # Bytes that are no character may be replaced differently, but no word beside them is lost or doubled.
    assert [c for c in text if c in "theab"] == [c for c in byte_fallback.decode(tokens) if c in "theab"]


def test_whole_characters_survive_the_recovery(byte_fallback) -> None:
    ids = byte_fallback.backend.token_to_id
    broken = [ids("<0x50>"), ids("<0xA4>"), ids("▁the"), ids("<0xC3>"), ids("<0xA9>"), ids("a"), ids("é")]
    stream = TextStream(byte_fallback, ["aé"])
    text = "".join(stream.push(token) for token in broken)
    assert stream.stopped
    assert text == "P\ufffd theé"


def broken_tokens(tokenizer: ModelTokenizer) -> list[int]:
    return [token for token in range(259) if tokenizer.decode([token]) == "\ufffd"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_tokens_that_make_no_character_change_nothing_of_the_text(data: st.DataObject, tiny_model_dir) -> None:
    tokenizer = ModelTokenizer(tiny_model_dir)
    noise = st.sampled_from([0, *broken_tokens(tokenizer)])
    tokens = data.draw(st.lists(noise, min_size=10, max_size=80))
    tokens += data.draw(st.sampled_from([[], tokenizer.encode("€"), tokenizer.encode("a😀")]))
    stream = TextStream(tokenizer)
    assert "".join(stream.push(token) for token in tokens) + stream.finish() == tokenizer.decode(tokens)


@pytest.mark.parametrize("text", ["", "\ufffd"])
def test_a_long_run_of_such_tokens_is_not_decoded_again_with_every_token(tokenizer: ModelTokenizer, text: str) -> None:
    token = 0 if text == "" else broken_tokens(tokenizer)[0]
    assert tokenizer.decode([token]) == text

    class Counting:
        decoded = 0

        def decode(self, tokens: list[int]) -> str:
            self.decoded += len(tokens)
            return tokenizer.decode(tokens)

    counting = Counting()
    stream = TextStream(counting)  # type: ignore[arg-type]
    sent = [stream.push(token) for _ in range(1000)]
    assert "".join(sent) + stream.finish() == text * 1000
    assert len("".join(sent)) >= 950 * len(text)
    assert counting.decoded < 50 * 1000
