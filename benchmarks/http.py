"""The model server under many streams at once: all end whole, nothing is left, and memory stays within its bounds."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.benchmarks.http_load import StreamResult, read_streams
from agentsys.benchmarks.http_memory import KV_CACHE_MIB, dispatcher_memory, engine_growth
from agentsys.benchmarks.http_server import ServedModel, served_model
from agentsys.benchmarks.tiny_model import write_tiny_model

STREAMS: Final = 1000
TOKENS: Final = 24
ROUNDS: Final = 3
QUEUED: Final = 10_000
OVERLOAD: Final = 96

DISPATCHER_MIB: Final = 200.0
LEAK_MIB: Final = 8.0
"""What another 1,000 streams may leave in memory: the noise of allocators."""
SLACK_MIB: Final = 32.0
"""What the torch engine may take under overload beside its weights and its key-value cache."""


def main(options: Options) -> BenchResult:
    """Run streams over a tiny model, or ``--set model=FOLDER``; then the memory of a full dispatcher, of an engine."""
    rounds, insides = _stream_rounds(options.arguments.get("model"), 2 if options.quick else ROUNDS)
    queued, resident = dispatcher_memory(QUEUED)
    loaded, grown = engine_growth(OVERLOAD // (4 if options.quick else 1))
    last, before, after = rounds[-1], insides[-2], insides[-1]
    bars = [
        Bar("streams that ended whole, of 1,000", min(_whole(results) for results, _ in rounds), STREAMS),
        Bar("tasks left by 1,000 streams", after["tasks"] - insides[0]["tasks"], 0, at_least=False),
        Bar("calls and engine requests left", after["calls"] + after["engine_requests"], 0, at_least=False),
        Bar("MiB left by another 1,000 streams", after["resident_mib"] - before["resident_mib"], LEAK_MIB, False),
        Bar("MiB of a dispatcher's process with 10,000 queued calls", resident, DISPATCHER_MIB, at_least=False),
        Bar("MiB of an overloaded engine beside weights and cache", grown - KV_CACHE_MIB, SLACK_MIB, at_least=False),
    ]
    rows: list[Sequence[str | float | int]] = [_row(number, *one) for number, one in enumerate(rounds, 1)]
    rate = STREAMS / last[1]
    return BenchResult(
        name="http",
        figure=f"{STREAMS} streams at once: {rate:.0f} requests/s, none lost, nothing left",
        columns=["round of 1,000 streams", "seconds", "requests/s", "first event P50 s", "first event P95 s", "events"],
        rows=rows,
        bars=bars,
        repetitions={"seconds of 1,000 streams": [seconds for _, seconds in rounds]},
        notes=_notes(options, insides, queued, resident, loaded, grown),
    )


def _stream_rounds(
    model: str | None, rounds: int
) -> tuple[list[tuple[list[StreamResult], float]], list[dict[str, float]]]:
    """Return each round's streams and seconds, and what the server held before the first and after each."""
    with tempfile.TemporaryDirectory() as folder, served_model(Path(model or write_tiny_model(Path(folder)))) as server:
        asyncio.run(read_streams(server.address, _bodies(-1)[:50]))
        insides, measured = [_settled(server)], []
        for number in range(rounds):
            began = time.perf_counter()
            results = asyncio.run(read_streams(server.address, _bodies(number)))
            measured.append((results, time.perf_counter() - began))
            insides.append(_settled(server))
        return measured, insides


def _settled(server: ServedModel) -> dict[str, float]:
    """Return what the server holds a moment later, when connections that ended are closed."""
    time.sleep(1.0)
    return server.inside()


def _bodies(number: int) -> list[dict[str, object]]:
    common: dict[str, object] = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    return [
        {"prompt": f"round {number}, stream {stream}", "workflow": f"w{stream}"} | common for stream in range(STREAMS)
    ]


def _whole(results: list[StreamResult]) -> int:
    return sum(result.whole for result in results)


def _row(number: int, results: list[StreamResult], seconds: float) -> list[str | float | int]:
    cuts = statistics.quantiles([result.first for result in results], n=20)
    events = sum(result.events for result in results)
    return [number, seconds, STREAMS / seconds, cuts[9], cuts[18], events]


def _notes(
    options: Options, insides: list[dict[str, float]], queued: float, resident: float, loaded: float, grown: float
) -> list[str]:
    served = ", ".join(f"{inside['resident_mib']:.0f}" for inside in insides)
    model = options.arguments.get("model", "a Llama of two layers, 64 wide, random weights")
    return [
        f"model of the streams: {model}, in the torch engine; {TOKENS} tokens each",
        f"server's resident MiB before and after each round: {served}",
        f"{QUEUED} queued calls of 1,000 characters: {queued:.0f} MiB, {resident:.0f} with the process",
        f"default model's engine: {loaded:.0f} MiB loaded, {grown:.0f} more under overload, of them its cache of "
        f"{KV_CACHE_MIB}",
    ]
