"""Measurements of a runtime for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.serving.observation import EngineView
from agentsys.serving.server.metrics import engine_metrics
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
