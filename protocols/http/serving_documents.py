"""The documents that say how the engines do. They hold figures, identifiers and tags, and no prompts or answers."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from agentsys.serving.engine import EngineStats
from agentsys.serving.observation import EngineView, LatencyView, RequestView
from agentsys.serving.residence import Resident


class UsageDocument(BaseModel):
    """What a request has used so far, in tokens, and how often it was paused for more urgent ones."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int


class RequestDocument(BaseModel):
    """A request to an engine. ``urgency`` is κ, its latest start in unix seconds, null where it has no hurry.

    ``phase`` is ``waiting``, ``prefill``, ``decode`` or ``paused``, and at the end ``stop``, ``length``, ``aborted`` or
    ``failed``. ``queued``, ``first_token`` and ``total`` are null as long as they are not known.
    """

    request_id: str
    run: str | None
    agent: str | None
    urgency: float | None
    submitted_at: float
    phase: str
    tokens: int
    usage: UsageDocument
    queued: float | None
    first_token: float | None
    total: float | None

    @staticmethod
    def of(view: RequestView) -> RequestDocument:
        return RequestDocument(
            request_id=view.request_id,
            run=view.tags.get("run"),
            agent=view.tags.get("agent"),
            urgency=view.urgency if math.isfinite(view.urgency) else None,
            submitted_at=view.submitted_at,
            phase=view.phase,
            tokens=view.tokens,
            usage=UsageDocument(**asdict(view.usage)),
            queued=view.queued,
            first_token=view.first_token,
            total=view.total,
        )


class LatencyDocument(BaseModel):
    """Quantiles of the newest measurements, null where there are none, and how many there were in all."""

    p50: float | None
    p95: float | None
    count: int

    @staticmethod
    def of(view: LatencyView) -> LatencyDocument:
        return LatencyDocument(p50=view.p50, p95=view.p95, count=view.count)


class LoadDocument(BaseModel):
    """How a loaded engine does. ``requests`` are in order of service, ``recent`` the ended ones, the newest first.

    ``queue_known`` is false of an engine that does not tell its queue: phases are then guessed from the answers.
    ``tokens_per_second`` holds one count for each second, the newest last.
    """

    queue_known: bool
    requests: list[RequestDocument]
    recent: list[RequestDocument]
    queued: LatencyDocument
    first_token: LatencyDocument
    inter_token: LatencyDocument
    tokens_per_second: list[int]

    @staticmethod
    def of(view: EngineView) -> LoadDocument:
        return LoadDocument(
            queue_known=view.queue_known,
            requests=[RequestDocument.of(request) for request in view.requests],
            recent=[RequestDocument.of(request) for request in view.recent],
            queued=LatencyDocument.of(view.queued),
            first_token=LatencyDocument.of(view.first_token),
            inter_token=LatencyDocument.of(view.inter_token),
            tokens_per_second=list(view.tokens_per_second),
        )


class ResidenceDocument(BaseModel):
    """How a model stands to memory. ``state`` is ``loaded``, ``loaded ahead`` of a call, ``loading`` or ``not loaded``.

    ``next_use`` is in how many seconds its next call is expected, null where nothing tells; ``loads_ahead`` of its
    ``loads`` were made for a call that was expected, and the last load took ``load_seconds``. An adapter is in the
    memory of ``adapter_of``.
    """

    state: str
    memory_bytes: int
    gpu_bytes: int
    next_use: float | None
    loads: int
    loads_ahead: int
    load_seconds: float | None
    adapter_of: str | None

    @staticmethod
    def of(resident: Resident) -> ResidenceDocument:
        return ResidenceDocument(**{name: getattr(resident, name) for name in ResidenceDocument.model_fields})


class EngineDocument(BaseModel):
    """A model, how it stands to memory, and the load of its engine; ``stats`` and ``load`` are null while it is not
    loaded.
    """

    model: str
    stats: dict[str, int] | None
    load: LoadDocument | None
    residence: ResidenceDocument | None = None

    @staticmethod
    def of(model: str, view: EngineView | None, resident: Resident | None = None) -> EngineDocument:
        residence = None if resident is None else ResidenceDocument.of(resident)
        if view is None:
            return EngineDocument(model=model, stats=None, load=None, residence=residence)
        load = LoadDocument.of(view)
        return EngineDocument(model=model, stats=stats_of(view.stats), load=load, residence=residence)


def stats_of(stats: EngineStats) -> dict[str, int]:
    """Return an engine's counts by name."""
    counts: dict[str, Any] = asdict(stats)
    return counts
