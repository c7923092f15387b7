"""The HTTP engine against a real local server."""

from __future__ import annotations

import asyncio
import email.utils
import http.server
import json
import math
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentsys.blackboard.labels import PUBLIC
from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Capabilities, Engine
from agentsys.serving.engine_errors import RequestAbortedError, UnsupportedFeatureError
from agentsys.serving.models import engine_factory
from agentsys.serving.openai_engine import (
    OpenAIEngine,
    RemoteOverloadedError,
    RemoteUnavailableError,
)
from agentsys.serving.openai_format import RemoteProtocolError, RemoteRefusedError, UnsupportedConstraintError
from agentsys.serving.openai_logprobs import LogprobsWithheldError
from agentsys.serving.requests import (
    Chunk,
    Constraint,
    Embedding,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    Message,
    SamplingParams,
    TokenLogprob,
    TokenLogprobs,
)
from agentsys.serving.tokenizer import PromptError

VLLM = {"id": "big", "owned_by": "vllm", "max_model_len": 1234}
PLAIN = {"id": "plain", "owned_by": "somebody"}


def events(*texts: str, reason: str | None = "stop", usage: dict[str, Any] | None = None) -> list[str]:
    lines = [json.dumps({"choices": [{"delta": {"content": text}}]}) for text in texts]
    if reason:
        lines.append(json.dumps({"choices": [{"delta": {}, "finish_reason": reason}]}))
    if usage:
        lines.append(json.dumps({"choices": [], "usage": usage}))
    return [f"data: {line}\n\n" for line in [*lines, "[DONE]"]]


def embedded(prompts: list[Any]) -> str:
    """Vectors that tell their prompts apart, in no order."""
    listed = [{"index": place, "embedding": [3.0 * len(prompt), 4.0]} for place, prompt in enumerate(prompts)]
    return json.dumps({"data": listed[::-1], "usage": {"prompt_tokens": 2 * len(prompts)}})


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the server's script: a list of statuses, then the events."""

    def do_GET(self) -> None:
        self._reply(self.server.models_status, json.dumps({"data": self.server.models}))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append((self.path, body, self.headers.get("Authorization")))
        status = server.statuses.pop(0) if server.statuses else 200
        if status != 200:
            self._reply(status, "the reason why")
            return
        if self.path == "/v1/embeddings":
            server.gate.wait(20)
            self._reply(200, server.vectors if server.vectors is not None else embedded(body["input"]))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for line in server.events:
            if line == "WAIT":
                server.gate.wait(20)
                continue
            try:
                self.wfile.write(line.encode())
                self.wfile.flush()
            except OSError:
                server.dropped.set()
                return

    def _reply(self, status: int, text: str) -> None:
        self.send_response(status)
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance.models, instance.models_status, instance.requests, instance.statuses = [VLLM, PLAIN], 200, [], []
    instance.events, instance.gate, instance.dropped = events("Hel", "lo"), threading.Event(), threading.Event()
    instance.vectors, instance.retry_after = None, ""
    instance.url = f"http://127.0.0.1:{instance.server_port}/v1"
    # Clients of these tests drop connections on purpose; the default prints a traceback for each.
    instance.handle_error = lambda *_: None
    thread = threading.Thread(target=instance.serve_forever, args=(0.02,))
    thread.start()
    yield instance
    instance.gate.set()
    instance.shutdown()
    thread.join()
    instance.server_close()


def connect(server, model: str = "big", **options: Any) -> OpenAIEngine:
    engine = OpenAIEngine.connect(server.url, model=model, **options)
    engine._retry_pause = 0.0
    return engine


def chat(text: str = "hi", **options: Any) -> GenerateRequest:
    return GenerateRequest([Message("user", text)], **options)


async def collect(engine: Engine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(request)]


async def test_a_chat_answer_is_streamed_and_counted(server) -> None:
    server.events = events("Hel", "lo", usage={"prompt_tokens": 7, "completion_tokens": 2})
    engine = connect(server, api_key="secret")
    assert isinstance(engine, Engine)
    sampling = SamplingParams(max_tokens=9, temperature=0.5, seed=3, stop=("x",))
    chunks = await collect(engine, chat(sampling=sampling))
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 2)
    path, body, authorization = server.requests[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["max_tokens"], body["temperature"], body["seed"], body["stop"]) == (9, 0.5, 3, ["x"])
    assert engine.stats().generated_tokens == 2


async def test_characters_that_end_lines_elsewhere_are_text(server) -> None:
    said = ["one\u2028two", "\u2029", "\x85three\x0c", "four\r\n"]
    lines = [json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False) for text in said]
    server.events = [f"data: {line}\r\n\r\n" for line in lines] + events()
    chunks = await collect(connect(server), chat())
    assert [chunk.text for chunk in chunks] == [*said, ""]


async def test_halves_of_characters_are_told_as_such(server) -> None:
    server.events = events("one \ud83d", "\U0001f600", "\ude00 two")
    chunks = await collect(connect(server), chat())
    assert [chunk.text for chunk in chunks] == ["one \ufffd", "\U0001f600", "\ufffd two", ""]


async def test_penalties_and_biases_are_passed_on_and_left_out_where_there_are_none(server) -> None:
    sampling = SamplingParams(presence_penalty=0.5, frequency_penalty=-1.0, logit_bias={7: -100.0, 8: 2.5})
    for asked in (chat(sampling=sampling), chat()):
        await collect(connect(server, "plain"), asked)
    (_, shaped, _), (_, plain, _) = server.requests
    assert (shaped["presence_penalty"], shaped["frequency_penalty"]) == (0.5, -1.0)
    assert shaped["logit_bias"] == {"7": -100.0, "8": 2.5}
    assert not {"presence_penalty", "frequency_penalty", "logit_bias"} & set(plain)


async def test_raw_text_and_token_ids_go_to_completions(server) -> None:
    server.events = ['data: {"choices": [{"text": "ok", "finish_reason": "length"}]}\n\n', "data: [DONE]\n\n"]
    chunks = await collect(connect(server), GenerateRequest("once upon"))
    assert (chunks[0].text, chunks[-1].finish_reason) == ("ok", FinishReason.LENGTH)
    await collect(connect(server), GenerateRequest([1, 2, 3]))
    assert [(path, body["prompt"]) for path, body, _ in server.requests] == [
        ("/v1/completions", "once upon"),
        ("/v1/completions", [1, 2, 3]),
    ]


def test_vllm_is_recognised_and_others_are_not_taken_for_it(server) -> None:
    big, plain = connect(server).capabilities(), connect(server, "plain", context_length=99).capabilities()
    assert (big.context_length, big.priority, big.constraints) == (1234, True, {"json_schema", "regex", "lark"})
    assert (plain.context_length, plain.priority, plain.constraints) == (99, False, {"json_schema"})
    assert OpenAIEngine.connect(server.url).capabilities().model == "big"


async def test_constraints_and_priority_in_each_dialect(server) -> None:
    schema = Constraint("json_schema", '{"type": "object"}')
    await collect(connect(server), chat(constraint=Constraint("lark", "start: A"), urgency=1.5))
    await collect(connect(server), chat(constraint=schema))
    await collect(connect(server, "plain"), chat(constraint=schema, urgency=1.5))
    lark, vllm_schema, plain_schema = (body for _, body, _ in server.requests)
    assert (lark["structured_outputs"], lark["priority"]) == ({"grammar": "start: A"}, 1500)
    assert vllm_schema["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert plain_schema["response_format"]["type"] == "json_schema" and "priority" not in plain_schema


@pytest.mark.parametrize(
    "constraint", [Constraint("lark", "start: A"), Constraint("regex", "a"), Constraint("json_schema", "{")]
)
async def test_a_constraint_the_server_cannot_take_is_refused_before_sending(server, constraint) -> None:
    with pytest.raises(UnsupportedConstraintError):
        await collect(connect(server, "plain"), chat(constraint=constraint))
    assert server.requests == []


def telling(*pieces: tuple[str, Any]) -> list[str]:
    """Events of a chat whose pieces of text come with log-probabilities."""
    lines = [{"choices": [{"delta": {"content": text}, "logprobs": logprobs}]} for text, logprobs in pieces]
    lines.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    return [f"data: {json.dumps(line)}\n\n" for line in lines] + ["data: [DONE]\n\n"]


def told(token: str, logprob: float, *top: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "top_logprobs": list(top), **more}


async def test_logprobs_of_a_chat_are_asked_for_and_read(server) -> None:
    likely, other = told("Hel", -0.1, bytes=[72, 101, 108]), told("X", -2.0)
    half = told("\ufffd", -0.5, bytes=[0xE2, 0x82])
    server.events = telling(
        ("Hel", {"content": [told("Hel", -0.1, other, likely, told("Y", -9.0))]}), ("", {"content": [half]})
    )
    server.models = [VLLM, PLAIN | {"logprobs": True}]
    for name in ("big", "plain"):
        chunks = await collect(connect(server, name), chat(sampling=SamplingParams(logprobs=2)))
        assert [(chunk.text, len(chunk.logprobs)) for chunk in chunks] == [("Hel", 1), ("", 1), ("", 0)]
        assert chunks[0].logprobs[0].chosen == TokenLogprob(None, b"Hel", -0.1)
        assert chunks[0].logprobs[0].top == (TokenLogprob(None, b"Hel", -0.1), TokenLogprob(None, b"X", -2.0))
        assert chunks[1].logprobs[0] == TokenLogprobs(TokenLogprob(None, b"\xe2\x82", -0.5))
        body = server.requests[-1][1]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    await collect(connect(server), chat())
    assert not {"logprobs", "top_logprobs"} & set(server.requests[-1][1])


async def test_logprobs_of_a_text_are_asked_for_and_read(server) -> None:
    logprobs = {
        "tokens": ["ok", "bytes:\\xe2\\x82"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"no": -1.5, "ok": -0.5, "maybe": -3.0}, None],
        "text_offset": [0, 2],
    }
    event = {"choices": [{"text": "ok", "logprobs": logprobs, "finish_reason": "length"}]}
    server.events = [f"data: {json.dumps(event)}\n\n", "data: [DONE]\n\n"]
    for count in (0, 2):
        request = GenerateRequest("once upon", SamplingParams(logprobs=count))
        first, second = (await collect(connect(server), request))[0].logprobs
        likeliest = (TokenLogprob(None, b"ok", -0.5), TokenLogprob(None, b"no", -1.5))
        assert first == TokenLogprobs(TokenLogprob(None, b"ok", -0.5), likeliest[:count])
        assert second == TokenLogprobs(TokenLogprob(None, b"\xe2\x82", -0.25))
        assert server.requests[-1][1]["logprobs"] == count and "top_logprobs" not in server.requests[-1][1]


async def test_an_answer_without_the_logprobs_asked_for_is_an_error_of_its_own(server) -> None:
    for withholding in (events("Hello"), telling(("Hello", None)), telling(("Hello", {"content": None}))):
        server.events = withholding
        with pytest.raises(LogprobsWithheldError, match="big of http") as caught:
            await collect(connect(server), chat(sampling=SamplingParams(logprobs=0)))
        assert isinstance(caught.value, UnsupportedFeatureError) and caught.value.code == "AGS-0445"
    server.models = [VLLM | {"logprobs": False}]
    before = len(server.requests)
    with pytest.raises(UnsupportedFeatureError, match="tells no log-probabilities"):
        await collect(connect(server), chat(sampling=SamplingParams(logprobs=0)))
    assert len(server.requests) == before, "a server that says so is not asked"


async def test_logprobs_that_nobody_asked_for_are_left_out(server) -> None:
    server.events = telling(("Hel", {"content": [told("Hel", -0.1)]}))
    assert all(not chunk.logprobs for chunk in await collect(connect(server), chat()))


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": "a"}]},
        {"content": [told("a", -1.0, bytes=[256])]},
        {"content": 5},
        [1],
        {"tokens": ["a", "b"], "token_logprobs": [-1.0]},
        {"tokens": ["a"], "token_logprobs": [None]},
    ],
)
async def test_malformed_logprobs_are_named(server, logprobs: Any) -> None:
    server.events = telling(("a", logprobs))
    with pytest.raises(RemoteProtocolError, match="not a completion"):
        await collect(connect(server), chat(sampling=SamplingParams(logprobs=1)))


async def vectors_of(server, *prompts: Any, **options: Any) -> Embedding:
    server.gate.set()
    return await connect(server, **options).embed(EmbedRequest(prompts, request_id="e"))


async def test_vectors_come_in_the_order_asked_and_of_length_one(server) -> None:
    found = await vectors_of(server, "one", [5, 6, 7, 8], "seven..", api_key="secret")
    expected = [(3 * length, 4) for length in (3, 4, 7)]
    for vector, (x, y) in zip(found.vectors, expected, strict=True):
        assert vector == pytest.approx((x / math.hypot(x, y), y / math.hypot(x, y)))
    assert (found.prompt_tokens, found.model) == (6, "big")
    (path, texts, authorization), (_, tokens, _) = server.requests
    assert (path, authorization) == ("/v1/embeddings", "Bearer secret")
    assert (texts["input"], tokens["input"]) == (["one", "seven.."], [[5, 6, 7, 8]])
    assert texts["model"] == "big" and texts["priority"] > 0 and len(texts["cache_salt"]) == 32
    await vectors_of(server, "one", model="plain")
    assert not {"priority", "cache_salt"} & set(server.requests[-1][1])


async def test_more_texts_than_a_server_takes_are_asked_for_in_parts(server) -> None:
    found = await vectors_of(server, *["x" * (1 + index % 7) for index in range(4100)])
    assert [len(body["input"]) for _, body, _ in server.requests] == [2048, 2048, 4]
    assert len(found.vectors) == 4100 and found.vectors[0] == found.vectors[2051] == found.vectors[4095]


async def test_vectors_are_asked_for_again_and_faults_named(server) -> None:
    server.statuses = [503, 429]
    await vectors_of(server, "one")
    assert len(server.requests) == 3
    for status, error in ((400, RemoteRefusedError), (500, RemoteUnavailableError)):
        server.statuses = [status] * 3
        with pytest.raises(error, match=f"HTTP {status}: the reason why"):
            await vectors_of(server, "one")
    with pytest.raises(PromptError, match="surrogates"):
        await vectors_of(server, "a file name \udcff")


@pytest.mark.parametrize(
    "answer",
    [
        "<html>login</html>",
        "[]",
        '{"data": []}',
        '{"error": {"message": "out of memory"}}',
        '{"data": [{"index": 1, "embedding": [1.0]}]}',
        '{"data": [{"index": 0, "embedding": [0.0, 0.0]}]}',
        '{"data": [{"index": 0, "embedding": "AAAAAA=="}]}',
    ],
)
async def test_an_answer_without_the_vectors_is_named(server, answer: str) -> None:
    server.vectors = answer
    with pytest.raises(RemoteProtocolError, match="does not hold 1 embeddings"):
        await vectors_of(server, "one")


async def test_a_model_that_says_that_it_has_no_vectors_is_not_asked(server) -> None:
    server.models = [VLLM | {"embeddings": False}]
    assert not connect(server).capabilities().embeddings
    with pytest.raises(UnsupportedFeatureError, match="gives no embeddings"):
        await vectors_of(server, "one")
    assert server.requests == []


async def test_embedding_can_be_aborted_and_cancelled_and_is_refused_when_closed(server) -> None:
    engine = connect(server)
    for stop in (lambda _: engine.abort("e"), lambda task: task.cancel()):
        task = asyncio.create_task(engine.embed(EmbedRequest(("one",), request_id="e")))
        while engine.stats().running == 0:
            await asyncio.sleep(0.005)
        stop(task)
        with pytest.raises((RequestAbortedError, asyncio.CancelledError)) as caught:
            await asyncio.wait_for(task, 20)
        assert isinstance(caught.value, asyncio.CancelledError) == task.cancelled()
        assert engine.stats().running == 0
    await engine.close()
    with pytest.raises(RemoteUnavailableError, match="closed"):
        await engine.embed(EmbedRequest(("one",)))


async def test_overload_is_retried(server) -> None:
    server.statuses = [503, 429]
    chunks = await collect(connect(server), chat())
    assert "".join(chunk.text for chunk in chunks) == "Hello"
    assert len(server.requests) == 3


async def test_lasting_overload_and_refusals_are_told_apart(server) -> None:
    server.statuses = [500] * 3
    with pytest.raises(RemoteUnavailableError, match="HTTP 500: the reason why"):
        await collect(connect(server), chat())
    server.statuses = [400]
    with pytest.raises(RemoteRefusedError, match="HTTP 400: the reason why"):
        await collect(connect(server), chat())
    assert len(server.requests) == 4, "a refusal is not tried again"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("3600", 20.0), ("", 1.0), ("soon", 1.0), ("\xb2", 1.0), ("in 12 s", 12.0)],
)
async def test_a_server_says_when_to_come_back_in_seconds_or_by_a_date(server, header: str, seconds: float) -> None:
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=12), usegmt=True)
    server.statuses, server.retry_after = [429], date if header == "in 12 s" else header
    with pytest.raises(RemoteOverloadedError) as caught:
        await collect(connect(server, attempts=1), chat())
    assert caught.value.retry_after == pytest.approx(seconds, abs=2 if header == "in 12 s" else 0)


@pytest.mark.parametrize("status", [501, 520, 529])
async def test_every_failure_of_a_server_is_one_and_no_refusal(server, status: int) -> None:
    server.statuses = [status]
    assert (await collect(connect(server), chat()))[-1].finish_reason is FinishReason.STOP
    server.statuses = [status] * 3
    with pytest.raises(RemoteUnavailableError, match=f"HTTP {status}"):
        await collect(connect(server), chat())


@pytest.mark.parametrize(
    "lines",
    [
        ["data: not json\n\n"],
        ["data: [1]\n\n"],
        ['data: {"choices": [{"text": 5}]}\n\n'],
        ['data: {"choices": [{"delta": {"content": ["parts"]}}]}\n\n'],
        ['{"choices": []}\n'],
        ["<html>login</html>\n"],
        ['data: {"error": {"message": "out of memory"}}\n\n'],
        events("cut", reason=None)[:1],
        events("cut", reason="abort"),
        events("cut", reason="error"),
    ],
)
async def test_malformed_answers_are_named(server, lines) -> None:
    server.events = lines
    with pytest.raises(RemoteProtocolError):
        await collect(connect(server), chat())


async def test_an_answer_that_is_whole_stands_though_its_connection_breaks() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(65536)  # what is unread would reset the connection
        piece = "".join(events("Hel", "lo")[:-1]).encode()
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + f"{len(piece):x}\r\n".encode() + piece + b"\r\n")  # and no chunk that ends it
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        chunks = await collect(OpenAIEngine(f"http://{host}:{port}/v1", Capabilities("m", 100)), chat())
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_a_server_that_falls_silent_times_out(server) -> None:
    server.events = [events("a")[0], "WAIT"]
    started = time.monotonic()
    with pytest.raises(RemoteUnavailableError, match="broke off"):
        await collect(connect(server, timeout=0.2), chat())
    assert time.monotonic() - started < 15


async def test_nobody_listening_is_a_clear_error(server) -> None:
    engine = connect(server)
    engine._base_url = "http://127.0.0.1:9/v1"
    with pytest.raises(RemoteUnavailableError, match="cannot be reached"):
        await collect(engine, chat())
    with pytest.raises(RemoteUnavailableError, match="cannot be reached"):
        OpenAIEngine.connect("http://127.0.0.1:9/v1")


def test_connecting_to_something_else_is_a_clear_error(server) -> None:
    with pytest.raises(RemoteRefusedError, match=r"no model 'other'.*big, plain"):
        connect(server, "other")
    server.models_status = 401
    with pytest.raises(RemoteRefusedError, match="HTTP 401"):
        connect(server)
    for models in (5, [{"name": "big"}], [VLLM | {"max_model_len": "long"}], [VLLM | {"constraints": 5}]):
        server.models_status, server.models = 200, models
        with pytest.raises(RemoteProtocolError):
            OpenAIEngine.connect(server.url)


async def test_abort_ends_the_stream_and_closing_drops_the_connection(server, until) -> None:
    server.events = [events("a")[0], "WAIT", *events("b") * 2000]
    engine = connect(server)
    stream = engine.submit(chat(request_id="r"))
    assert (await anext(stream)).text == "a"
    engine.abort("r")
    assert (await anext(stream)).finish_reason is FinishReason.ABORTED
    await stream.aclose()
    server.gate.set()
    assert await asyncio.to_thread(server.dropped.wait, 20)
    assert engine.stats().running == 0
    engine.rekey("r", 1.0)


async def test_what_is_sent_to_this_machine_goes_through_no_proxy(server, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (await collect(connect(server), chat()))[-1].finish_reason is FinishReason.STOP


async def test_a_reader_that_is_cancelled_while_it_closes_its_stream_is_cancelled(server, monkeypatch) -> None:
    async def pump(self, post, events, room) -> None:
        events.put_nowait(Chunk("a"))
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)  # as a connection may take to close

    monkeypatch.setattr(OpenAIEngine, "_pump", pump)
    closing = asyncio.Event()

    async def read() -> None:
        stream = connect(server).submit(chat())
        await anext(stream)
        closing.set()
        await stream.aclose()
        await asyncio.sleep(60)

    reading = asyncio.create_task(read())
    await closing.wait()
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(reading), 5)


async def test_a_closed_engine_refuses(server) -> None:
    engine = connect(server)
    await engine.close()
    with pytest.raises(RemoteUnavailableError, match="closed"):
        await collect(engine, chat())


async def test_a_url_is_a_model_specification(server) -> None:
    spec = f"{server.url}#plain"
    client = ServingClient({"remote": engine_factory(spec)}, "remote")
    generation = await client.generate(chat())
    assert (generation.text, generation.model) == ("Hello", "plain")
    await client.close()


def test_who_learns_a_prompt_follows_from_the_specification(server) -> None:
    remote = "https://models.example.org/v1#m"
    operator = {"model-server:models.example.org"}
    assert engine_factory("smollm2-135m").audience.members == frozenset()
    assert engine_factory("http://localhost:8000/v1#m").audience.members == connect(server).audience.members == set()
    assert engine_factory(remote).audience.members == operator
    engines = {"here": engine_factory("smollm2-135m"), "there": engine_factory(remote)}
    assert ServingClient(engines, "here").audience.members == operator
    assert ServingClient(engines, "here", audience=PUBLIC).audience == PUBLIC


async def test_what_cannot_be_sent_is_an_error_and_no_endless_wait(server) -> None:
    engine = connect(server)
    with pytest.raises(PromptError, match="surrogates"):
        await asyncio.wait_for(collect(engine, chat("a file name \udcff")), 20)
    server.events = events("fine")
    assert (await collect(engine, chat()))[-1].finish_reason is FinishReason.STOP


async def test_an_empty_error_field_is_none(server) -> None:
    server.events = [line.replace('{"choices"', '{"error": null, "choices"') for line in events("fine")]
    assert (await collect(connect(server), chat()))[0].text == "fine"


async def test_a_call_without_hurry_comes_after_every_other(server) -> None:
    server.events = events("fine")
    engine = connect(server)
    priorities = []
    for urgency in (-math.inf, 0.0, 1.8e9, math.inf):
        await collect(engine, chat(urgency=urgency))
        priorities.append(server.requests[-1][1]["priority"])
    assert priorities == sorted(set(priorities)) and priorities[1] == 0


@pytest.mark.parametrize("request_id", ["é", "a\nb", " ", "\udcff"])
async def test_any_id_can_be_sent_as_the_key_of_a_call(server, request_id: str) -> None:
    engine = connect(server)
    assert (await collect(engine, chat(request_id=request_id)))[-1].finish_reason is FinishReason.STOP
    assert (await engine.embed(EmbedRequest(("x",), request_id=request_id))).vectors


@pytest.mark.parametrize("schema", ["[" * 100_000, '{"minimum": NaN}', '{"maximum": 1e999}', "{"])
async def test_a_schema_that_cannot_be_sent_as_json_is_the_fault_of_its_request(server, schema: str) -> None:
    with pytest.raises(UnsupportedConstraintError, match="is not JSON"):
        await collect(connect(server), chat(constraint=Constraint("json_schema", schema)))


@pytest.mark.parametrize("kind", ["invalid_request_error", "BadRequestError"])
async def test_a_request_that_turns_out_wrong_in_its_answer_blames_no_server(server, kind: str) -> None:
    failed = json.dumps({"error": {"message": "the parser gave up", "type": kind}})
    server.events = [*events("Hel", reason=None)[:-1], f"data: {failed}\n\n", "data: [DONE]\n\n"]
    dispatcher = Dispatcher([ReplicaSource("r", connect(server, attempts=1))])
    for _ in range(4):
        with pytest.raises(RemoteRefusedError, match="the parser gave up"):
            await collect(dispatcher, chat())
    (view,) = dispatcher.replicas()
    assert (view.state, view.failed) == ("closed", 0)
    await dispatcher.close()
