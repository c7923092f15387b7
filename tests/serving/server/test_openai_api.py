"""The OpenAI-compatible server over a scripted model, driven by the official client on a real socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from agentsys.serving.openai_engine import OpenAIEngine
from agentsys.serving.requests import Constraint, GenerateRequest, Message, SamplingParams
from agentsys.serving.server.bodies import MOST_PROMPT_BYTES
from agentsys.serving.torch_engine.engine import TorchEngine

MESSAGES = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["alpha", "beta"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
    "additionalProperties": False,
}


def chat(client: openai.OpenAI, **options: Any) -> Any:
    options = {"model": "scripted", "messages": MESSAGES, "max_tokens": 12, "temperature": 0} | options
    return client.chat.completions.create(**options)


def test_a_chat_answer_has_text_reason_and_usage(client: openai.OpenAI) -> None:
    answer = chat(client)
    assert (answer.object, answer.model, answer.choices[0].message.role) == ("chat.completion", "scripted", "assistant")
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    again = chat(client)
    assert again.choices[0].message.content == answer.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_a_stream_is_the_same_answer_in_pieces_with_usage_last(client: openai.OpenAI) -> None:
    whole = chat(client)
    events = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert events[0].choices[0].delta.role == "assistant"
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "length"
    assert events[-1].choices == [] and events[-1].usage.completion_tokens == 12
    assert all(event.usage is None for event in chat(client, stream=True))


def test_the_stream_ends_with_the_mark(url: str) -> None:
    body = {"model": "scripted", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    response = httpx.post(f"{url}/chat/completions", json=body, timeout=30)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_several_choices_differ_and_are_counted(client: openai.OpenAI) -> None:
    answer = chat(client, n=3, temperature=1.5, seed=5)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3 and [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 36
    again = chat(client, n=3, temperature=1.5, seed=5, stream=True)
    streamed = ["", "", ""]
    for event in again:
        streamed[event.choices[0].index] += event.choices[0].delta.content or ""
    assert streamed == texts


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_holds(client: openai.OpenAI, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
    answer = chat(client, response_format=form, max_tokens=200, temperature=1.5, seed=1, stream=stream)
    if stream:
        text = "".join(event.choices[0].delta.content or "" for event in answer)
    else:
        text = answer.choices[0].message.content
    value = json.loads(text)
    assert value["kind"] in ("alpha", "beta") and isinstance(value["sure"], bool)


def test_any_object_and_any_grammar_of_vllm(client: openai.OpenAI) -> None:
    assert chat(client, response_format={"type": "json_object"}, max_tokens=60).choices[0].message.content[0] == "{"
    for outputs, expected in [({"regex": "[ab]{3}"}, "ab"), ({"grammar": 'start: "x" | "yy"'}, "xy")]:
        text = chat(client, extra_body={"structured_outputs": outputs}).choices[0].message.content
        assert text and set(text) <= set(expected)


def test_a_stop_string_stays_out_of_the_text(client: openai.OpenAI) -> None:
    text = chat(client).choices[0].message.content
    stop = text[4:6]
    answer = chat(client, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_text_completions_of_texts_and_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="scripted", prompt=["ab", "cd"], n=2, max_tokens=5, temperature=0)
    texts = [choice.text for choice in answer.choices]
    assert len(texts) == 4 and texts[0] == texts[1] != texts[2] == texts[3]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 20)
    tokens = client.completions.create(model="scripted", prompt=[5, 6, 7], max_tokens=5, temperature=0, stream=True)
    assert "".join(event.choices[0].text for event in tokens)


def test_parts_of_text_and_the_developer_role_are_taken(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert chat(client, messages=[{"role": "user", "content": parts}]).choices == chat(client).choices
    system = [{"role": role, "content": "be brief"} for role in ("developer", "system")]
    assert (
        chat(client, messages=[system[0], *MESSAGES]).choices == chat(client, messages=[system[1], *MESSAGES]).choices
    )


def test_models_are_listed_and_described(client: openai.OpenAI, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    chat(client)
    described = httpx.get(f"{url}/models/scripted").json()
    assert described["max_model_len"] == 2048 and "json_schema" in described["constraints"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "AGS-0416"


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"top_logprobs": 3}, "AGS-0720", None),
        ({"logit_bias": {"5": 100.5}}, "AGS-0720", "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "AGS-0720", "logit_bias.five.[key]"),
        ({"logit_bias": {"320": 1}}, "AGS-0424", "logit_bias"),
        ({"presence_penalty": 2.5}, "AGS-0720", "presence_penalty"),
        ({"frequency_penalty": -2.5}, "AGS-0720", "frequency_penalty"),
        ({"extra_body": {"invented": 1}}, "AGS-0721", "invented"),
        ({"n": 9}, "AGS-0720", "n"),
        ({"temperature": -1}, "AGS-0720", "temperature"),
        ({"messages": []}, "AGS-0720", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "AGS-0720",
            None,
        ),
        ({"response_format": {"type": "json_schema"}}, "AGS-0720", None),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "AGS-0411", None),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "AGS-0410", None),
        ({"extra_body": {"priority": 10**400}}, "AGS-0720", "priority"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_are_refused_in_the_shape_of_openai(
    client: openai.OpenAI, options: dict[str, Any], code: str, param: str | None, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, stream=stream, **options)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert param is None or caught.value.param == param


def test_a_number_out_of_range_is_named_and_a_text_is_not_repeated(client: openai.OpenAI) -> None:
    for options, shown in (
        ({"presence_penalty": 2.5}, "less than or equal to 2, got 2.5"),
        ({"logit_bias": {"5": -101}}, "logit_bias.5: Input should be greater than or equal to -100, got -101"),
        ({"logit_bias": {"99999": 1}}, "from 0 to 319, got 99999"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, **options)
        assert shown in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, temperature="secret")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_penalties_and_biases_shape_the_answer(client: openai.OpenAI, stream: bool) -> None:
    def said(**options: Any) -> str:
        answer = chat(client, stream=stream, **options)
        if stream:
            return "".join(event.choices[0].delta.content or "" for event in answer)
        return answer.choices[0].message.content

    bias = {"68": 50.0, "69": 43.0}  # of all others the model thinks within a few
    once, other = said(logit_bias={"68": 100}, max_tokens=1), said(logit_bias={"69": 100}, max_tokens=1)
    assert len({once, other}) == 2
    assert said(logit_bias=bias) == once * 12
    assert set(said(logit_bias=bias, frequency_penalty=2)) == {once, other}
    often = {"logit_bias": {"68": 4.0}}
    assert said(**often, presence_penalty=2).count(once) < said(**often).count(once)


def test_an_unknown_model_is_not_found_and_text_that_is_no_json_refused(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(client, model="other")
    for content in (
        b"{",
        b"[]",
        b'{"model": "\xff"}',
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ):
        response = httpx.post(f"{url}/chat/completions", content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "AGS-0720")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/nope", 404), ("GET", "/v1/chat/completions", 405)],
)
def test_what_is_not_there_is_told_in_the_shape_of_openai(method: str, path: str, status: int, url: str) -> None:
    answer = httpx.request(method, url.removesuffix("/v1") + path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, "AGS-0720")
    assert f"{method} {path}" in error["message"] and "/v1/openapi.json" in error["remedy"]
    assert (answer.headers.get("allow") == "POST") is (status == 405)


def test_a_body_is_read_so_far_and_no_further(url: str) -> None:
    json_type = {"Content-Type": "application/json"}
    pieces = (b"x" * 2**20 for _ in range(MOST_PROMPT_BYTES // 2**20 + 1))
    told = {**json_type, "Content-Length": str(MOST_PROMPT_BYTES + 1)}
    for path in ("chat/completions", "completions", "embeddings"):
        answer = _answer_to_headers(f"{url}/{path}", told)
        assert answer["error"]["code"] == "AGS-0710", path
    answer = httpx.post(f"{url}/chat/completions", content=pieces, headers=json_type, timeout=30)
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("AGS-0710", "invalid_request_error", None)
    assert 'agentsys_http_errors_total{code="AGS-0710"} 4.0' in httpx.get(url.removesuffix("/v1") + "/metrics").text


def _answer_to_headers(url: str, headers: dict[str, str]) -> Any:
    """Return what a server answers that gets the head of a request and never its body."""
    where = urlsplit(url)
    connection = HTTPConnection(where.netloc, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", where.path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return json.load(connection.getresponse())


def test_fields_that_are_null_are_fields_left_out(url: str) -> None:
    fields = dict.fromkeys(("n", "stream", "stop", "max_tokens", "logit_bias", "ignore_eos", "user", "tools"))
    answer = httpx.post(f"{url}/chat/completions", json={"messages": MESSAGES, **fields}, timeout=30)
    assert answer.status_code == 200, answer.text
    answer = httpx.post(f"{url}/embeddings", json={"input": "x", "encoding_format": None, "user": None}, timeout=30)
    assert answer.status_code == 200, answer.text
    half, json_type = b'{"input": "\\ud800"}', {"Content-Type": "application/json"}
    answer = httpx.post(f"{url}/embeddings", content=half, headers=json_type, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "AGS-0720")


def test_neutral_values_and_fields_without_effect_are_taken(client: openai.OpenAI) -> None:
    chat(client, logprobs=False, presence_penalty=0, logit_bias={}, user="ann", store=False, parallel_tool_calls=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_engine(
    url: str, scripted_engine: TorchEngine, until: Callable[[Callable[[], bool]], None], stream: bool
) -> None:
    body = {"model": "scripted", "prompt": [5, 6, 7], "max_tokens": 240, "n": 8, "stream": stream, "ignore_eos": True}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=httpx.Timeout(5, read=0.05)) as http:
        if not stream:
            http.post(f"{url}/completions", json=body)
        with http.stream("POST", f"{url}/completions", json=body, timeout=5) as response:
            next(response.iter_lines())
        raise httpx.ReadTimeout("left")
    until(lambda: scripted_engine.stats().running + scripted_engine.stats().waiting == 0)
    assert scripted_engine.stats().generated_tokens < 8 * 240


def test_a_failing_engine_is_an_error_and_no_endless_wait(client: openai.OpenAI, scripted_engine: TorchEngine) -> None:
    scripted_engine._core._runner.fail_at = len(scripted_engine._core._runner.steps) + 4
    with pytest.raises(openai.APIError, match="planted failure"):
        list(chat(client, stream=True, max_tokens=100))
    with pytest.raises(openai.InternalServerError) as caught:
        chat(client)
    assert (caught.value.status_code, caught.value.code) == (503, "AGS-0413")


async def test_our_own_engine_uses_the_server_with_grammars_and_urgency(url: str, client: openai.OpenAI) -> None:
    chat(client)
    engine = OpenAIEngine.connect(url)
    assert engine.capabilities().priority and engine.capabilities().context_length == 2048
    assert engine.capabilities().constraints == {"json_schema", "regex", "lark"}
    request = GenerateRequest([Message("user", "x")], SamplingParams(max_tokens=9), Constraint("regex", "[ab]{3}"), 1.5)
    text = "".join([chunk.text async for chunk in engine.submit(request)])
    assert len(text) == 3


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_does_not_call_itself_json_is_refused_in_so_many_words(url: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    for path in ("completions", "chat/completions", "embeddings"):
        answer = httpx.post(f"{url}/{path}", content=b'{"prompt": "x"}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "AGS-0720")
        assert "Content-Type: application/json" in answer.json()["error"]["message"]
