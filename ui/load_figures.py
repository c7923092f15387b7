"""How the load of an engine is written for people. Nothing here depends on Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentsys.protocols.http.serving_documents import LatencyDocument, LoadDocument, RequestDocument, ResidenceDocument
from agentsys.ui.formatting import Chip, Tone, duration_text
from agentsys.views.texts import count_text

RATE_SECONDS: Final = 10
"""Seconds over which the rate of tokens is taken."""

_MIB: Final = 2**20
_STATE_TONES: Final[dict[str, Tone]] = {"loaded": "green", "loaded ahead": "blue", "loading": "orange"}

LONGEST_OVERDUE_SECONDS: Final = 86400
"""A latest start longer ago than this is a priority rather than a time."""


def due_text(urgency: float | None, now: float) -> str:
    """Return how long until the latest start of a request."""
    if urgency is None:
        return "no hurry"
    left = urgency - now
    if left < -LONGEST_OVERDUE_SECONDS:
        return "ahead of all that have a deadline"
    return f"due in {duration_text(left)}" if left >= 0 else f"overdue by {duration_text(-left)}"


def share_text(part: int, whole: int) -> str:
    """Return a share in whole percent; of nothing, a dash."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def seconds_text(seconds: float | None) -> str:
    """Return a latency in milliseconds, above ten seconds in seconds; a dash where it is not known."""
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:,.1f} ms"


def rate(tokens_per_second: Sequence[int]) -> float:
    """Return tokens a second over the last full seconds."""
    counted = tokens_per_second[-RATE_SECONDS - 1 : -1]
    return sum(counted) / len(counted) if counted else 0.0


def headline(stats: Mapping[str, int], load: LoadDocument) -> list[tuple[str, str]]:
    """Return names and figures, the most important first."""
    running = f"{stats['running']} of {stats['slots']}" if stats["slots"] else str(stats["running"])
    blocks = "–" if not load.queue_known else share_text(stats["kv_used_blocks"], stats["kv_total_blocks"])
    return [
        ("running", running),
        ("waiting", str(stats["waiting"])),
        ("KV cache", blocks),
        ("tokens/s", f"{rate(load.tokens_per_second):.0f}"),
        ("drafts accepted", share_text(stats["accepted_tokens"], stats["drafted_tokens"])),
        ("preemptions", f"{stats['preemptions']:,}"),
    ]


def residence_chips(residence: ResidenceDocument) -> list[Chip]:
    """Return whether a model is in memory and how much it takes, what was loaded ahead of a call, and when the next
    call is expected.
    """
    facts = [] if residence.adapter_of is None else [f"adapter of {residence.adapter_of}"]
    if residence.memory_bytes:
        facts.append(f"{residence.memory_bytes / _MIB:,.0f} MiB")
    if residence.gpu_bytes:
        facts.append(f"{residence.gpu_bytes / _MIB:,.0f} MiB of the GPU")
    if residence.next_use is not None:
        facts.append(f"next call expected in {duration_text(residence.next_use)}")
    if residence.loads:
        ahead = f", {residence.loads_ahead} ahead of a call" if residence.loads_ahead else ""
        facts.append(f"{count_text(residence.loads, 'load')}{ahead}")
    if residence.load_seconds is not None:
        facts.append(f"the last load took {duration_text(residence.load_seconds)}")
    return [Chip(residence.state, _STATE_TONES.get(residence.state, "gray")), *(Chip(fact, "gray") for fact in facts)]


def latency_rows(load: LoadDocument) -> list[dict[str, Any]]:
    """Return the latencies as rows of a table."""
    named: list[tuple[str, LatencyDocument]] = [
        ("queued", load.queued),
        ("first token", load.first_token),
        ("token to token", load.inter_token),
    ]
    return [
        {"latency": name, "p50": seconds_text(one.p50), "p95": seconds_text(one.p95), "measured": one.count}
        for name, one in named
    ]


def recent_rows(requests: Sequence[RequestDocument]) -> list[dict[str, Any]]:
    """Return ended requests as rows of a table."""
    return [
        {
            "run": request.run or "",
            "agent": request.agent or "",
            "ended": request.phase,
            "prompt": request.usage.prompt_tokens,
            "cached": request.usage.cached_tokens,
            "tokens": request.tokens,
            "queued": seconds_text(request.queued),
            "first token": seconds_text(request.first_token),
            "total": seconds_text(request.total),
            "drafts": share_text(request.usage.accepted_tokens, request.usage.drafted_tokens),
            "paused": request.usage.preemptions,
        }
        for request in requests
    ]
