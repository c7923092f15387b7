"""How a server lives and ends: health, metrics, drain, limits over HTTP, clients that do not read."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from agentsys.serving.server.limits import ServerLimits, TenantLimits
from agentsys.serving.server.operation import Operation
from tests.serving.server.scripted import ScriptedEngine, operated

Until = Callable[[Callable[[], bool]], None]
STREAM = {"model": "scripted", "prompt": "x", "stream": True, "max_tokens": 900}


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    scripted = ScriptedEngine()
    yield scripted
    scripted.go_on.set()


@pytest.fixture
def server(engine: ScriptedEngine) -> Iterator[tuple[str, Operation]]:
    with operated(engine) as running:
        yield running


def complete(url: str, **fields: object) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={"model": "scripted", "prompt": "x", **fields}, timeout=30)


def test_it_lives_and_is_ready(server: tuple[str, Operation]) -> None:
    for path in ("/health", "/ready"):
        answer = httpx.get(server[0] + path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_model_that_cannot_be_loaded_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with operated(ScriptedEngine()) as (url, _):
        assert httpx.get(f"{url}/ready").status_code == 200

    class Broken(ScriptedEngine):
        async def submit(self, request):
            from agentsys.serving.engine_errors import EngineFailedError

            raise EngineFailedError("planted failure")
            yield

    with operated(Broken()) as (url, _):
        assert complete(url).status_code == 503
        assert httpx.get(f"{url}/ready").json() == {"status": "failed"}
        assert httpx.get(f"{url}/health").status_code == 200
        # Whoever heeds that sends no calls any more, by which alone it could be seen that the model is well again.
        monkeypatch.setattr("agentsys.serving.client._FAILED_SECONDS", 0.0)
        assert httpx.get(f"{url}/ready").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_drain_finishes_what_runs_and_refuses_the_rest(
    server: tuple[str, Operation], engine: ScriptedEngine, until: Until, stream: bool
) -> None:
    url, _ = server
    engine.go_on.clear()
    with ThreadPoolExecutor() as threads:
        begun = threads.submit(complete, url, stream=stream)
        until(lambda: len(engine.running) == 1)
        drained = httpx.post(f"{url}/admin/drain")
        assert (drained.status_code, drained.json()["under_way"]) == (202, 1)
        refused = complete(url)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "AGS-0726")
        assert int(refused.headers["Retry-After"]) >= 1
        assert httpx.get(f"{url}/ready").json() == {"status": "draining"}
        engine.go_on.set()
        answer = begun.result(30)
    assert "z" in answer.text and (answer.text.endswith("data: [DONE]\n\n") or not stream)
    until(lambda: not _answers(url))


@pytest.mark.parametrize("stream", [False, True])
def test_a_drain_that_takes_too_long_ends_answers_with_an_error(
    engine: ScriptedEngine, until: Until, stream: bool
) -> None:
    engine.go_on.clear()
    with operated(engine, ServerLimits(drain_seconds=0.2)) as (url, _), ThreadPoolExecutor() as threads:
        begun = threads.submit(complete, url, stream=stream)
        until(lambda: len(engine.running) == 1)
        httpx.post(f"{url}/admin/drain")
        answer = begun.result(30)
    assert "AGS-0722" in answer.text and answer.status_code == (200 if stream else 503)
    assert not engine.running


def test_calls_above_a_tenants_bounds_wait_or_are_refused_with_a_time(engine: ScriptedEngine, until: Until) -> None:
    limits = ServerLimits(tenant=TenantLimits(calls=1, queued=1))
    engine.go_on.clear()
    with operated(engine, limits) as (url, operation), ThreadPoolExecutor() as threads:
        begun = [threads.submit(complete, url, tenant="a") for _ in range(2)]
        until(lambda: operation.admission.held == 2 and bool(engine.running))
        assert len(engine.running) == 1
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        with client, pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="scripted", prompt="x", extra_body={"tenant": "a"})
        assert caught.value.code == "AGS-0727" and int(caught.value.response.headers["Retry-After"]) >= 1
        others = threads.submit(complete, url, tenant="b")
        until(lambda: len(engine.running) == 2)
        engine.go_on.set()
        assert [answer.result(30).status_code for answer in (*begun, others)] == [200] * 3
        assert operation.admission.held == 0


def test_the_prompt_of_a_stream_that_is_closed_early_counts(engine: ScriptedEngine, until: Until) -> None:
    engine.go_on.clear()
    with operated(engine, ServerLimits(tenant=TenantLimits(tokens_per_minute=100))) as (url, operation):
        body = STREAM | {"prompt": "x" * 4000, "tenant": "a"}
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as stream:
            next(stream.iter_lines())
        until(lambda: operation.lifecycle.under_way == 0)
        assert complete(url, tenant="a").json()["error"]["code"] == "AGS-0727"
        assert complete(url, tenant="b", max_tokens=1).status_code == 200


def test_a_client_that_does_not_read_is_dropped_and_its_request_aborted(until: Until) -> None:
    engine = ScriptedEngine([b"x" * 400] * 900)
    with operated(engine, ServerLimits(read_seconds=0.3)) as (url, operation):
        host, port = httpx.URL(url).host, httpx.URL(url).port
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((host, port))
            body = httpx.Request("POST", f"{url}/v1/completions", json=STREAM)
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            deaf.sendall(f"{head}Content-Length: {len(body.content)}\r\n\r\n".encode() + body.content)
            until(lambda: operation.lifecycle.under_way == 1)
            until(lambda: operation.lifecycle.under_way == 0)
            assert not engine.running and operation.admission.held == 0
            rest = b"".join(iter(lambda: deaf.recv(65536), b""))
        assert b"[DONE]" not in rest and len(rest) < 900 * 400
        assert complete(url).status_code == 200


def test_metrics_tell_requests_errors_and_engines(server: tuple[str, Operation]) -> None:
    url, _ = server
    complete(url)
    complete(url, best_of=2)
    httpx.get(f"{url}/v1/what-nobody-serves")
    text = httpx.get(f"{url}/metrics").text
    assert 'agentsys_http_requests_total{route="/completions",status="200"} 1.0' in text
    assert 'agentsys_http_errors_total{code="AGS-0721"} 1.0' in text
    assert 'agentsys_http_seconds_count{route="/completions"} 2.0' in text
    assert "agentsys_http_under_way 0.0" in text and 'agentsys_engine_running{model="scripted"} 0.0' in text
    assert "what-nobody-serves" not in text


def _answers(url: str) -> bool:
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return False
    return True


@pytest.fixture
def loading() -> Iterator[tuple[Callable[[], ScriptedEngine], threading.Event]]:
    """What loads an engine, once it may."""
    go_on = threading.Event()

    def load() -> ScriptedEngine:
        go_on.wait(20)
        return ScriptedEngine()

    yield load, go_on
    go_on.set()


def test_a_request_whose_model_is_being_loaded_counts_and_is_finished(loading, until: Until) -> None:
    load, go_on = loading
    with operated(load, ServerLimits(calls=1)) as (url, operation), ThreadPoolExecutor() as pool:
        asked = pool.submit(complete, url)
        until(lambda: operation.lifecycle.under_way == 1)
        refused = complete(url)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "AGS-0727")
        httpx.post(f"{url}/admin/drain")
        go_on.set()
        assert asked.result().status_code == 200
        assert (operation.admission.held, operation.lifecycle.under_way) == (0, 0)


def test_whoever_leaves_while_a_model_is_being_loaded_leaves_nothing_behind(loading, until: Until) -> None:
    load, go_on = loading
    with operated(load) as (url, operation):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            body = b'{"model": "scripted", "prompt": "x"}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            until(lambda: operation.admission.held == 1)
        until(lambda: operation.admission.held == operation.lifecycle.under_way == 0)
        go_on.set()


def test_a_server_that_ends_before_a_model_is_loaded_says_so(loading) -> None:
    load, go_on = loading
    with operated(load, ServerLimits(drain_seconds=0.5)) as (url, operation), ThreadPoolExecutor() as pool:
        asked = pool.submit(complete, url)
        while not operation.lifecycle.under_way and not asked.done():
            time.sleep(0.01)
        httpx.post(f"{url}/admin/drain")
        assert (asked.result().status_code, asked.result().json()["error"]["code"]) == (503, "AGS-0722")
        go_on.set()
