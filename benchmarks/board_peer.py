"""Our checkpoint saver beside LangGraph's: steps a second, and the bytes that a growing state takes.

A step is what LangGraph does at the end of each superstep with ``durability="sync"``: it starts saving the task's
writes and the checkpoint, and waits for the checkpoint. Here a step ends when both are saved. The state is a list of
messages that grows by one a step, beside channels that do not change. These are the calls that a saver gets; what a
whole graph makes of it, of which LangGraph itself takes a part, is measured beside them (``board_graph``).
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from agentsys.benchmarks.board_graph import MEMORY, message, supersteps
from agentsys.benchmarks.board_savers import Arm, Saver, postgres_arms, sqlite_arms, steps_a_second
from agentsys.benchmarks.harness import Bar, BenchResult, Options, interleave, median, other_cpu_share
from agentsys.benchmarks.postgres_server import running_server

STEPS: Final = 1_000
FIRST_STEPS: Final = 100
"""Steps while the state is still small; over all of :data:`STEPS` it grows to 300 KB."""
WORKLOADS: Final = ((1, FIRST_STEPS), (16, FIRST_STEPS), (1, STEPS), (16, STEPS))
"""Threads of the graph, and steps that each of them takes, all at once."""
THREADS: Final = (1, 16)
"""Runs of a whole graph at once, of :data:`FIRST_STEPS` supersteps each."""


@dataclass(slots=True)
class _Figures:
    rows: list[Sequence[str | float | int]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    repetitions: dict[str, list[float]] = field(default_factory=dict)


def main(options: Options) -> BenchResult:
    """Measure ours and LangGraph's in turns: over files with ``synchronous=FULL``, and on one PostgreSQL server.

    ``--set server=URL`` names the server; without it one of our own is started.
    """
    busy = other_cpu_share()
    figures = _Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentsys-bench-")))
        server = options.arguments.get("server") or stack.enter_context(running_server()).url
        for arms in (sqlite_arms(folder), postgres_arms(server)):
            _compare(figures, arms, options)
            _compare_graphs(figures, arms, options)
    return _result(figures, busy)


def _compare(figures: _Figures, arms: Sequence[Arm], options: Options) -> None:
    theirs = arms[1].name
    for threads, steps in WORKLOADS:
        if options.quick:
            steps //= 10
        # Sixteen thousand steps are a long time already, and the peer's gigabytes of them.
        repeats = 2 if options.quick else options.repeats if steps < STEPS else 2 if threads == 1 else 1
        taken = interleave({arm.name: steps_a_second(arm, threads, steps, walk) for arm in arms}, repeats)
        what = f"{steps:,} steps, {'1 thread' if threads == 1 else f'{threads} threads at once'}"
        figures.repetitions |= {f"{name}, {what}": values for name, values in taken.items()}
        our_rate, their_rate = (median(values) for values in taken.values())
        ratio = median([one / other for one, other in zip(*taken.values(), strict=True)])
        figures.rows.append([f"steps/s, {what}", theirs, round(our_rate), round(their_rate), f"{ratio:.2f}x"])
        figures.bars.append(Bar(f"steps/s, {what}: times {theirs}", ratio, 3))
    sizes = [_grown(arm, STEPS) for arm in arms]
    share = sizes[0] / sizes[1]
    kib = [size // 1024 for size in sizes]
    figures.rows.append([f"KiB after {STEPS:,} steps", theirs, *kib, f"{share:.3f}x"])
    figures.bars.append(Bar(f"bytes after {STEPS:,} steps: times {theirs}", share, 0.5, at_least=False))


def _compare_graphs(figures: _Figures, arms: Sequence[Arm], options: Options) -> None:
    """Compare whole graphs, and tell how many supersteps LangGraph takes where nothing is stored."""
    steps, repeats = (FIRST_STEPS // 10, 2) if options.quick else (FIRST_STEPS, options.repeats)
    for threads in THREADS:
        what = f"graph supersteps/s, {steps:,} steps, {'1 thread' if threads == 1 else f'{threads} threads at once'}"
        taken = interleave(
            {arm.name: steps_a_second(arm, threads, steps, supersteps) for arm in (*arms, MEMORY)}, repeats
        )
        figures.repetitions |= {f"{name}, {what}": values for name, values in taken.items()}
        ours, theirs, alone = (median(values) for values in taken.values())
        ratio = median([taken[arms[0].name][at] / taken[arms[1].name][at] for at in range(repeats)])
        figures.rows.append(
            [f"{what} (nothing stored: {alone:.0f})", arms[1].name, round(ours), round(theirs), f"{ratio:.2f}x"]
        )


def _grown(arm: Arm, steps: int) -> int:
    """Return the bytes that ``steps`` steps of one thread take."""
    place = arm.place()

    async def grow() -> None:
        async with arm.opened(place) as saver:
            await walk(saver, "thread", steps)

    asyncio.run(grow())
    return arm.size(place)


async def walk(saver: Saver, thread: str, steps: int) -> None:
    """Take ``steps`` steps in a thread, and check that the last one reads as it was put."""
    words = random.Random(thread)
    config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    checkpoint = empty_checkpoint()
    values: dict[str, Any] = {"messages": [], "plan": "p" * 500, "round": 0}
    for step in range(steps):
        new_message = message(words, f"{thread}-{step}")
        values = {**values, "messages": [*values["messages"], new_message], "round": step}
        written: list[tuple[str, Any]] = [("messages", [new_message]), ("round", step)]
        calls: list[Coroutine[Any, Any, Any]] = []
        if step:
            calls.append(saver.aput_writes(config, written, f"task {step}", "~__pregel_pull"))
        changed = ("messages", "round") if step else tuple(values)
        versions = dict(checkpoint["channel_versions"])
        for channel in changed:
            versions[channel] = saver.get_next_version(versions.get(channel), None)
        checkpoint = _checkpoint(values, versions)
        new = {channel: versions[channel] for channel in changed}
        calls.append(saver.aput(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, new))
        config = (await asyncio.gather(*calls))[-1]
    found = await saver.aget_tuple(config)
    assert found is not None and found.checkpoint["channel_values"] == values


def _checkpoint(values: dict[str, Any], versions: dict[str, Any]) -> Checkpoint:
    return {
        **empty_checkpoint(),
        "id": str(uuid6()),
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": {"agent": dict(versions)},
    }


def _result(figures: _Figures, busy: float) -> BenchResult:
    met = sum(bar.met for bar in figures.bars)
    return BenchResult(
        name="board-langgraph",
        figure=f"{met} of {len(figures.bars)} bars met against LangGraph's savers",
        columns=["what", "peer", "ours", "peer's", "ours ÷ peer's"],
        rows=figures.rows,
        bars=figures.bars,
        repetitions=figures.repetitions,
        notes=[
            "Each over its peer's database, every commit on the disk before it is answered;"
            " a step is the task's writes and the checkpoint, started together.",
            f"Other processes kept {busy:.1f} of {os.cpu_count()} cores busy before the runs and "
            f"{other_cpu_share():.1f} after them.",
        ],
    )
