"""Log-probabilities, echo and embeddings in OpenAI's format, through the official client over a scripted engine."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from agentsys.serving.models import EngineOptions, replicated
from agentsys.serving.requests import GenerateRequest, TokenLogprob, TokenLogprobs
from agentsys.serving.scheduling.workflows import WorkflowTable
from tests.serving.server.scripted import ScriptedEngine, operated

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(params=["itself", "behind another server"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of the scripted engine, or one whose dispatcher has the first as a replica."""
    with operated(ScriptedEngine()) as (address, _):
        if request.param == "itself":
            yield f"{address}/v1"
            return
        before = replicated([f"{address}/v1#scripted"], EngineOptions(), WorkflowTable())
        with operated(before) as (outer, _):
            yield f"{outer}/v1"


@pytest.fixture
def unable() -> Iterator[str]:
    with operated(ScriptedEngine(able=False)) as (address, _):
        yield f"{address}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as instance:
        yield instance


def test_chat_tells_each_token_and_its_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=MESSAGES, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["a", "bytes:\\xe2", "bytes:\\x82\\xac", "z"]
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == answer.choices[0].message.content == "a€z"
    assert [token.logprob for token in tokens] == [-0.25, -0.5, -0.75, -1.0]
    assert [other.token for other in tokens[0].top_logprobs] == ["A", "B"]
    bare = client.chat.completions.create(model="scripted", messages=MESSAGES, logprobs=True)
    assert bare.choices[0].logprobs.content[0].top_logprobs == []
    assert client.chat.completions.create(model="scripted", messages=MESSAGES).choices[0].logprobs is None


def test_a_stream_tells_the_same(client: openai.OpenAI) -> None:
    options = {"model": "scripted", "messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**options)
    events = client.chat.completions.create(**options, stream=True)
    streamed = [token for event in events if event.choices[0].logprobs for token in event.choices[0].logprobs.content]
    assert streamed == whole.choices[0].logprobs.content


def test_text_completions_have_their_own_form(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="scripted", prompt="x", logprobs=1).choices[0].logprobs
    assert whole.tokens[0] == "a" and whole.token_logprobs == [-0.25, -0.5, -0.75, -1.0]
    assert whole.top_logprobs[0] == {"A": -0.5} and whole.text_offset == [0, 1, 1, 2]
    events = client.completions.create(model="scripted", prompt="x", logprobs=1, stream=True)
    parts = [event.choices[0].logprobs for event in events if event.choices[0].logprobs]
    assert [token for part in parts for token in part.tokens] == whole.tokens
    assert [offset for part in parts for offset in part.text_offset] == whole.text_offset


class Excluding(ScriptedEngine):
    """Tells of what a grammar excludes as vLLM does."""

    @staticmethod
    def _logprobs(request: GenerateRequest, number: int, piece: bytes) -> tuple[TokenLogprobs, ...]:
        chosen = TokenLogprob(number, piece, 0.0)
        return (TokenLogprobs(chosen, (chosen, TokenLogprob(9, b"B", -math.inf))),)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("chat/completions", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}),
        ("completions", {"prompt": "x", "logprobs": 2}),
    ],
)
def test_what_a_grammar_excludes_is_told_as_a_number(path: str, fields: dict, stream: bool) -> None:
    with operated(Excluding()) as (address, _):
        answer = httpx.post(f"{address}/v1/{path}", json={**fields, "stream": stream}, timeout=30)
    assert answer.status_code == 200 and "-9999.0" in answer.text and "Infinity" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_first(client: openai.OpenAI, stream: bool) -> None:
    options = {"model": "scripted", "prompt": ["ab", "cd"], "n": 2, "echo": True}
    texts = ["", "", "", ""]
    if stream:
        for event in client.completions.create(**options, stream=True):
            texts[event.choices[0].index] += event.choices[0].text
    else:
        texts = [choice.text for choice in client.completions.create(**options).choices]
    assert texts == ["aba€z", "aba€z", "cda€z", "cda€z"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"echo": True, "logprobs": 1}, None), ({"echo": True, "prompt": [1, 2]}, None), ({"logprobs": 21}, "logprobs")],
)
def test_what_cannot_be_echoed_or_told_is_refused(client: openai.OpenAI, fields: dict, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "scripted", "prompt": "x"} | fields)
    assert caught.value.code == "AGS-0720" and param in (None, caught.value.param)


def test_an_engine_that_cannot_tell_refuses(unable: str) -> None:
    with openai.OpenAI(base_url=unable, api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="scripted", messages=MESSAGES, logprobs=True)
        assert (caught.value.code, caught.value.param) == ("AGS-0721", "logprobs")
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="scripted", input="x")
        assert caught.value.code == "AGS-0417"


def test_embeddings_of_a_batch_as_numbers_and_as_base64(client: openai.OpenAI, url: str) -> None:
    answer = client.embeddings.create(model="scripted", input=["a", "bc"])  # the client asks for base64 itself
    plain = client.embeddings.create(model="scripted", input=["a", "bc"], encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1] and answer.usage.total_tokens == 3
    for one, other in zip(answer.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6) and len(one.embedding) == 2
    raw = httpx.post(f"{url}/embeddings", json={"input": [1, 2, 3], "encoding_format": "base64"}).json()
    assert struct.unpack("<2f", base64.b64decode(raw["data"][0]["embedding"]))[0] == pytest.approx(-0.98999, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"dimensions": 64}, "AGS-0721", "dimensions"),
        ({"input": []}, "AGS-0720", "input"),
        ({"input": ""}, "AGS-0720", "input"),
    ],
)
def test_vectors_that_nobody_can_give_are_refused(client: openai.OpenAI, fields: dict, code: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": "scripted", "input": "x"} | fields)
    assert (caught.value.code, caught.value.param) == (code, param)


async def test_langchain_gets_logprobs_and_vectors(url: str) -> None:
    chat = ChatOpenAI(base_url=url, api_key="unused", model="scripted", logprobs=True)
    answer = await chat.ainvoke("hi")
    assert answer.response_metadata["logprobs"]["content"][0]["token"] == "a"
    vectors = OpenAIEmbeddings(base_url=url, api_key="unused", model="scripted", check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["a", "bc"])) == 2
