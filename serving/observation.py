"""What a serving client saw of its requests. It keeps figures and identifiers, and neither prompts nor answers."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentsys.serving.engine import EngineStats, QueuedRequest
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Usage

KEPT_REQUESTS: Final = 200
"""Ended requests that are remembered of each model."""

KEPT_LATENCIES: Final = 2000
"""Measurements that quantiles are taken of, the newest."""

THROUGHPUT_SECONDS: Final = 300

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds, in seconds, of the buckets in which latencies are counted."""

FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class RequestView:
    """One request. ``submitted_at`` is unix seconds, ``queued``, ``first_token`` and ``total`` are durations.

    ``phase`` is that of the engine's queue (or ``waiting`` and ``decode`` where it does not tell) and, once the
    request has ended, its finish reason or ``failed``. ``queued`` is known at the end, of engines that measure it.
    """

    request_id: str
    tags: Mapping[str, str]
    urgency: float
    submitted_at: float
    phase: str
    tokens: int
    usage: Usage = field(default_factory=Usage)
    queued: float | None = None
    first_token: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class LatencyView:
    """A latency in seconds: quantiles of the newest, and of all the count, the sum and the counts in ``BUCKETS``.

    The last of ``buckets`` counts what is above every bound. Quantiles are ``None`` without a measurement.
    """

    p50: float | None
    p95: float | None
    count: int
    sum: float
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EngineView:
    """How an engine does. ``requests`` are in order of service, ``recent`` the ended ones, the newest first.

    ``queue_known`` says whether the engine tells its queue. ``tokens_per_second`` has one count for each second,
    the newest last.
    """

    stats: EngineStats
    queue_known: bool
    requests: tuple[RequestView, ...]
    recent: tuple[RequestView, ...]
    queued: LatencyView
    first_token: LatencyView
    inter_token: LatencyView
    tokens_per_second: tuple[int, ...]


class _Latency:
    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=KEPT_LATENCIES)
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        self._newest.extend([seconds] * times)
        self._buckets[bisect_left(BUCKETS, seconds)] += times
        self._sum += seconds * times

    def view(self) -> LatencyView:
        ordered = sorted(self._newest)
        p50, p95 = (_quantile(ordered, part) for part in (0.5, 0.95))
        return LatencyView(p50, p95, sum(self._buckets), self._sum, tuple(self._buckets))


class _Throughput:
    """Tokens by whole second, of the last ``THROUGHPUT_SECONDS``."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=THROUGHPUT_SECONDS)

    def add(self, second: int, tokens: int) -> None:
        if self._counts and self._counts[-1][0] == second:
            tokens += self._counts.pop()[1]
        self._counts.append((second, tokens))

    def view(self, now: int) -> tuple[int, ...]:
        counts = dict(self._counts)
        return tuple(counts.get(second, 0) for second in range(now - THROUGHPUT_SECONDS + 1, now + 1))


class ObservedRequest:
    """One request while it is answered."""

    def __init__(self, request: GenerateRequest, record: ModelRecord) -> None:
        self._request = request
        self._record = record
        self._submitted_at, self._began = record.wall(), record.clock()
        self._last: float | None = None
        self._first_token: float | None = None
        self._queued: float | None = None
        self._usage = Usage()
        self._reason: FinishReason | None = None
        self.request_id = request.request_id
        self.urgency = request.urgency
        self.tokens = 0

    def note(self, chunk: Chunk) -> None:
        """Count a piece of the answer."""
        # A remote server does not tell token ids; most send one token a piece, and the true count at the end.
        tokens = len(chunk.token_ids) or (1 if chunk.text else 0)
        if tokens:
            self._count(tokens)
        if chunk.timings is not None:
            self._queued = chunk.timings.queued
        if chunk.usage is not None:
            self._usage = chunk.usage
            untold = max(chunk.usage.completion_tokens - self.tokens, 0)
            self.tokens += untold
            self._record.count(untold, None)
        self._reason = chunk.finish_reason

    def end(self, *, failed: bool) -> None:
        """Remember the request among the ended ones; one that neither failed nor finished was aborted."""
        self._reason = self._reason or (None if failed else FinishReason.ABORTED)
        self._record.forget(self, self.view(None, total=self._record.clock() - self._began))

    def view(self, queued: QueuedRequest | None, total: float | None = None) -> RequestView:
        return RequestView(
            request_id=self.request_id,
            tags=dict(self._request.tags),
            urgency=self.urgency if queued is None else queued.urgency,
            submitted_at=self._submitted_at,
            phase=self._phase(queued, ended=total is not None),
            tokens=self.tokens if queued is None else max(self.tokens, queued.generated_tokens),
            usage=self._usage if queued is None else queued.usage,
            queued=self._queued,
            first_token=self._first_token,
            total=total,
        )

    def _phase(self, queued: QueuedRequest | None, *, ended: bool) -> str:
        if ended:
            return str(self._reason or FAILED)
        if queued is not None:
            return queued.phase
        return "waiting" if self._first_token is None else "decode"

    def _count(self, tokens: int) -> None:
        now = self._record.clock()
        if self._first_token is None:
            self._first_token = now - self._began
        gap = None if self._last is None else (now - self._last) / tokens
        self._last = now
        self.tokens += tokens
        self._record.count(tokens, gap)

    @property
    def measured(self) -> tuple[float | None, float | None]:
        """Seconds in the queue and to the first token, as far as they are known."""
        return self._queued, self._first_token


class ModelRecord:
    """What is remembered of one model's requests, in bounded memory. Safe to read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, wall: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.wall = wall
        self._lock = threading.Lock()
        self._current: dict[int, ObservedRequest] = {}
        self._recent: deque[RequestView] = deque(maxlen=KEPT_REQUESTS)
        self._queued, self._first_token, self._inter_token = _Latency(), _Latency(), _Latency()
        self._throughput = _Throughput()

    def begin(self, request: GenerateRequest) -> ObservedRequest:
        """Follow a request; the caller ends it."""
        observed = ObservedRequest(request, self)
        with self._lock:
            self._current[id(observed)] = observed
        return observed

    def count(self, tokens: int, gap: float | None) -> None:
        """Count tokens that came now, ``gap`` seconds apart; ``None`` for the first ones of an answer."""
        with self._lock:
            self._throughput.add(int(self.wall()), tokens)
            if gap is not None:
                self._inter_token.add(gap, tokens)

    def forget(self, observed: ObservedRequest, ended: RequestView) -> None:
        """Move a request to the ended ones."""
        queued, first_token = observed.measured
        with self._lock:
            del self._current[id(observed)]
            self._recent.appendleft(ended)
            if queued is not None:
                self._queued.add(queued)
            if first_token is not None:
                self._first_token.add(first_token)

    def rekey(self, request_id: str, urgency: float) -> None:
        """Note a request's new κ."""
        with self._lock:
            for observed in self._current.values():
                if observed.request_id == request_id:
                    observed.urgency = urgency

    def view(self, stats: EngineStats, queue: Iterable[QueuedRequest] | None) -> EngineView:
        """Return everything remembered, joined with what the engine tells of its queue."""
        known = {request.request_id: request for request in queue or ()}
        with self._lock:
            current = [observed.view(known.get(observed.request_id)) for observed in self._current.values()]
            return EngineView(
                stats=stats,
                queue_known=queue is not None,
                requests=tuple(sorted(current, key=lambda one: (one.urgency, one.submitted_at))),
                recent=tuple(self._recent),
                queued=self._queued.view(),
                first_token=self._first_token.view(),
                inter_token=self._inter_token.view(),
                tokens_per_second=self._throughput.view(int(self.wall())),
            )


def _quantile(ordered: list[float], part: float) -> float | None:
    """Return the smallest value that at least ``part`` of the values do not exceed."""
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)] if ordered else None
