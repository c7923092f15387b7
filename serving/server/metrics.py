"""Measurements for Prometheus: of the engines behind a client, and of the requests that reach them over HTTP."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentsys.serving.client import ServingClient
from agentsys.serving.observation import BUCKETS, EngineView, LatencyView
from agentsys.serving.server.lifecycle import Lifecycle
from agentsys.serving.server.limits import Admission

_NO_ROUTE = "none"


def engine_metrics(views: Mapping[str, EngineView]) -> Iterator[Metric]:
    """Yield each engine's counts, its requests by phase, and its latencies."""
    stats = {model: asdict(view.stats) for model, view in sorted(views.items())}
    for key in sorted({key for counts in stats.values() for key in counts}):
        family = GaugeMetricFamily(f"agentsys_engine_{key}", f"Engine statistic {key}.", labels=["model"])
        for model, counts in stats.items():
            family.add_metric([model], counts[key])
        yield family
    requests = GaugeMetricFamily("agentsys_requests", "Requests being answered.", labels=["model", "phase"])
    for model, view in sorted(views.items()):
        for phase, count in sorted(Counter(request.phase for request in view.requests).items()):
            requests.add_metric([model, phase], count)
    yield requests
    for name, what in (
        ("queued", "before the first step"),
        ("first_token", "to the first token"),
        ("inter_token", "from one token to the next"),
    ):
        latencies = HistogramMetricFamily(f"agentsys_{name}_seconds", f"Seconds {what}.", labels=["model"])
        for model, view in sorted(views.items()):
            latency: LatencyView = getattr(view, name)
            latencies.add_metric([model], _cumulative(latency), latency.sum)
        yield latencies


class EngineCollector(Collector):
    """Measures a client's engines each time it is asked."""

    def __init__(self, client: ServingClient) -> None:
        self._client = client

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering measures nothing."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield the measurements."""
        return engine_metrics(self._client.observe())


class HttpMetrics:
    """What is counted of requests. ``registry`` holds it, and can be registered with another registry."""

    def __init__(self, lifecycle: Lifecycle, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "agentsys_http_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.errors = prometheus_client.Counter(
            "agentsys_http_errors", "Requests that ended in an error, by its code.", ["code"], registry=self.registry
        )
        self.first_byte = prometheus_client.Histogram(
            "agentsys_http_first_byte_seconds",
            "Seconds to the first byte of an answer, which in a stream is its first event.",
            ["route"],
            registry=self.registry,
            buckets=BUCKETS,
        )
        self.seconds = prometheus_client.Histogram(
            "agentsys_http_seconds",
            "Seconds to the end of an answer.",
            ["route"],
            registry=self.registry,
            buckets=BUCKETS,
        )
        self._gauge("agentsys_http_under_way", "Requests that are being answered.").set_function(
            lambda: lifecycle.under_way
        )
        self._gauge("agentsys_http_draining", "1 while the server takes nothing more.").set_function(
            lambda: lifecycle.draining
        )
        self._gauge("agentsys_http_calls", "Model calls that the server holds.").set_function(lambda: admission.held)
        self._gauge("agentsys_http_waiting", "Model calls that wait for their tenant's turn.").set_function(
            lambda: admission.waiting
        )

    def _gauge(self, name: str, what: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(name, what, registry=self.registry)


class Measured:
    """ASGI middleware that measures every request to its end, streams too."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, first = time.perf_counter(), 0, 0.0

        async def noted(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status, first = message["status"], time.perf_counter() - began
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # Of a path that leads nowhere the path itself is the caller's, and could be anything.
            route = getattr(scope.get("route"), "path", _NO_ROUTE).removeprefix("/v1")
            self._metrics.requests.labels(route, str(status or "none")).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
            if status:
                self._metrics.first_byte.labels(route).observe(first)


def _cumulative(latency: LatencyView) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return [(bound, sum(latency.buckets[: number + 1])) for number, bound in enumerate(bounds)]
