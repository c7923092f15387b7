"""Our checkpoint saver beside LangGraph's: steps a second, and the bytes that a growing state takes.

A step is what LangGraph does at the end of each superstep with ``durability="sync"``: it starts saving the task's
writes and the checkpoint, and waits for the checkpoint. Here a step ends when both are saved. The state is a list of
messages that grows by one a step, beside channels that do not change.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from agentsys.benchmarks.harness import Bar, BenchResult, Options, interleave, median, other_cpu_share
from agentsys.blackboard.board import Board
from agentsys.errors import ConfigurationError
from agentsys.langgraph.saver import BlackboardSaver

Saver: TypeAlias = BaseCheckpointSaver[Any]
Opened: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Saver]]

THREADS: Final = (1, 16)
STEPS: Final = 1_000
FIRST_STEPS: Final = 100
"""Steps of each thread while time is taken, or its state would outgrow that of others."""
WORDS: Final = ("board", "commit", "label", "run", "agent", "plan", "file", "column", "answer", "query", "bid", "round")
MESSAGE_WORDS: Final = 40


def main(options: Options) -> BenchResult:
    """Measure both savers in turns, each over a new file with ``synchronous=FULL``."""
    arms: dict[str, Opened] = {"ours": ours, "AsyncSqliteSaver": async_sqlite}
    repeats = 2 if options.quick else options.repeats
    busy = other_cpu_share()
    figures: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="agentsys-bench-") as name:
        files = (Path(name) / f"{number}.db" for number in range(1 << 30))
        for threads in THREADS:
            steps = 20 if options.quick else FIRST_STEPS
            rates = {arm: _rate(opened, files, threads, steps) for arm, opened in arms.items()}
            taken = interleave(rates, repeats)
            figures.update({f"{arm} {threads}": values for arm, values in taken.items()})
        for arm, opened in arms.items():
            path = next(files)
            asyncio.run(_grow(opened, path, STEPS))
            sizes[arm] = _bytes(path)
    return _result(figures, sizes, busy)


@asynccontextmanager
async def ours(path: Path) -> AsyncIterator[Saver]:
    """Give our saver over a new board at ``path``."""
    with Board.open(path) as board:
        yield BlackboardSaver(board)


@asynccontextmanager
async def async_sqlite(path: Path) -> AsyncIterator[Saver]:
    """Give LangGraph's saver over a new file at ``path``, durable as the board is."""
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError as error:
        raise ConfigurationError(
            "The peer is not installed.", remedy="pip install langgraph-checkpoint-sqlite (the extra `dev` has it)."
        ) from error
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        await saver.setup()
        await saver.conn.execute("PRAGMA synchronous=FULL")
        yield saver


def _rate(opened: Opened, files: Any, threads: int, steps: int) -> Callable[[], float]:
    async def run() -> float:
        async with opened(next(files)) as saver:
            # The first statements are compiled once in a process's life.
            await walk(saver, "warm-up", 2)
            start = time.perf_counter()
            await asyncio.gather(*(walk(saver, f"thread {number}", steps) for number in range(threads)))
            return threads * steps / (time.perf_counter() - start)

    return lambda: asyncio.run(run())


async def _grow(opened: Opened, path: Path, steps: int) -> None:
    async with opened(path) as saver:
        await walk(saver, "thread", steps)


async def walk(saver: Saver, thread: str, steps: int) -> None:
    """Take ``steps`` steps in a thread, and check that the last one reads as it was put."""
    words = random.Random(thread)
    config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    checkpoint = empty_checkpoint()
    values: dict[str, Any] = {"messages": [], "plan": "p" * 500, "round": 0}
    for step in range(steps):
        message = {"role": "ai", "id": f"{thread}-{step}", "content": " ".join(words.choices(WORDS, k=MESSAGE_WORDS))}
        values = {**values, "messages": [*values["messages"], message], "round": step}
        written: list[tuple[str, Any]] = [("messages", [message]), ("round", step)]
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


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _result(figures: dict[str, list[float]], sizes: dict[str, int], busy: float) -> BenchResult:
    medians = {arm: median(values) for arm, values in figures.items()}
    rows: list[Sequence[str | float | int]] = []
    bars: list[Bar] = []
    for threads in THREADS:
        mine, theirs = medians[f"ours {threads}"], medians[f"AsyncSqliteSaver {threads}"]
        what = "1 thread" if threads == 1 else f"{threads} threads at once"
        rows.append([f"steps/s, {what}", round(mine), round(theirs), f"{mine / theirs:.2f}x"])
        bars.append(Bar(f"steps/s, {what}: times AsyncSqliteSaver", mine / theirs, 3))
    share = sizes["ours"] / sizes["AsyncSqliteSaver"]
    kib = {arm: size // 1024 for arm, size in sizes.items()}
    rows.append([f"KiB after {STEPS:,} steps", kib["ours"], kib["AsyncSqliteSaver"], f"{share:.3f}x"])
    bars.append(Bar(f"bytes after {STEPS:,} steps: times AsyncSqliteSaver", share, 0.5, at_least=False))
    many = THREADS[-1]
    ratio = medians[f"ours {many}"] / medians[f"AsyncSqliteSaver {many}"]
    return BenchResult(
        name="board-langgraph",
        figure=f"{ratio:.1f}x the steps/s of AsyncSqliteSaver with {many} threads, {share:.3f}x its bytes",
        columns=["what", "ours", "AsyncSqliteSaver", "ours ÷ theirs"],
        rows=rows,
        bars=bars,
        repetitions=figures,
        notes=[
            "Both with synchronous=FULL; a step is the task's writes and the checkpoint, started together.",
            f"Other processes kept {busy:.1f} of {os.cpu_count()} cores busy before the runs and "
            f"{other_cpu_share():.1f} after them.",
        ],
    )
