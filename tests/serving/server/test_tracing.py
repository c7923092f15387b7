"""Spans of model calls: their names and figures, whose trace they belong to, and no word of a prompt or an answer."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentsys.serving.client import ServingClient
from agentsys.serving.openai_engine import OpenAIEngine
from agentsys.serving.server.app import serving_app
from tests.serving.server.scripted import ScriptedEngine, operated

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "what nobody else may read"


@pytest.fixture(scope="module")
def provider() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def exporter(provider: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    provider.clear()
    yield provider


def post(url: str, path: str, **fields: object) -> httpx.Response:
    return httpx.post(f"{url}/v1{path}", json=fields, headers={"traceparent": PARENT}, timeout=30)


def model_spans(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [
        span for span in exporter.get_finished_spans() if span.attributes and "gen_ai.request.model" in span.attributes
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_a_span_of_the_callers_trace_with_its_tokens(exporter: InMemorySpanExporter, stream: bool) -> None:
    messages = [{"role": "user", "content": SECRET}]
    with operated(ScriptedEngine([SECRET.encode()])) as (url, _):
        post(url, "/chat/completions", messages=messages, stream=stream, workflow="w", stage="plan")
    (span,) = model_spans(exporter)
    assert span.name == "chat scripted" and f"{span.context.trace_id:032x}" == TRACE
    attributes = dict(span.attributes or {})
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 1,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.latency.time_in_queue": 0.25,
        "agentsys.workflow": "w",
        "agentsys.workflow.stage": "plan",
    }
    assert expected.items() <= attributes.items()
    for one in exporter.get_finished_spans():
        assert SECRET not in one.to_json()


def test_what_goes_wrong_is_told_by_its_code(exporter: InMemorySpanExporter) -> None:
    with operated(ScriptedEngine(able=False)) as (url, _):
        class_of = post(url, "/embeddings", input=SECRET)
    (span,) = model_spans(exporter)
    assert class_of.status_code == 400 and span.name == "embeddings scripted"
    assert (span.attributes or {})["error.type"] == "AGS-0417"
    for one in exporter.get_finished_spans():
        assert SECRET not in one.to_json()


def test_the_trace_goes_on_to_a_remote_engine(exporter: InMemorySpanExporter, listening) -> None:
    with operated(ScriptedEngine()) as (behind, _):
        remote = OpenAIEngine.connect(f"{behind}/v1")
        with listening(serving_app(ServingClient({"front": remote}, "front"))) as url:
            assert post(url, "/completions", prompt="x").status_code == 200
    front, inner = sorted(model_spans(exporter), key=lambda span: span.start_time or 0)
    assert f"{inner.context.trace_id:032x}" == f"{front.context.trace_id:032x}" == TRACE
    assert (front.attributes or {})["gen_ai.request.model"] == "front"
