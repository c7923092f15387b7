"""Measurements of a runtime for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agentsys.protocols.http.serving_documents import stats_of
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.serving.observation import BUCKETS, EngineView, LatencyView
from agentsys.views.run_index import run_index


class RuntimeCollector(Collector):
    """Measures the runtime each time it is asked."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering measures nothing."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield the measurements."""
        runtime = self._runtime
        records = run_index(runtime.board).records(runtime.board)
        yield GaugeMetricFamily("agentsys_board_head", "Newest commit of the board.", runtime.board.head)
        runs = GaugeMetricFamily("agentsys_runs", "Runs on the board.", labels=["status"])
        for status, count in sorted(Counter(record.status for record in records).items()):
            runs.add_metric([status], count)
        yield runs
        yield from engine_metrics(engine_views(runtime))


def engine_views(runtime: Runtime) -> dict[str, EngineView]:
    """Return how every loaded engine does, by model."""
    return runtime.model.observe() if isinstance(runtime.model, ServingClient) else {}


def engine_metrics(views: Mapping[str, EngineView]) -> Iterator[Metric]:
    """Yield each engine's counts, its requests by phase, and its latencies."""
    stats = {model: stats_of(view.stats) for model, view in sorted(views.items())}
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


def _cumulative(latency: LatencyView) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return [(bound, sum(latency.buckets[: number + 1])) for number, bound in enumerate(bounds)]
