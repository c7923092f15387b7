"""Loads on a board, and the raw SQLite that the same rows would take without one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest import mock

from agentsys.benchmarks.harness import Bar
from agentsys.blackboard.awaiting import awaitable
from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.board import Board
from agentsys.blackboard.database import writer_pragmas
from agentsys.blackboard.entries import Entry, canonical_json
from agentsys.blackboard.schema import COMMITS, ENTRIES
from agentsys.blackboard.sql_storage import SqlStorage
from agentsys.blackboard.storage import PreparedCommit

AGENTS: Final = (1, 16, 64, 256)
KEYS: Final = 16
"""Entries that each agent goes round; every write supersedes a version once the round is full."""
TEXT: Final = "x" * 180
"""With its envelope, a value of about 200 bytes."""


@dataclass(slots=True)
class Figures:
    """Repetitions by arm, and the bars and rows that follow from them."""

    repetitions: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Sequence[str | float | int]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    def add(self, arm: str, value: float) -> None:
        self.repetitions.setdefault(arm, []).append(value)

    def median(self, arm: str) -> float:
        return median(self.repetitions[arm])


@dataclass(slots=True)
class Load:
    """What a load did: commits, seconds, each commit's latency in seconds, and the batches that were stored."""

    commits: int
    seconds: float
    latencies: list[float]
    batches: list[list[PreparedCommit]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.commits / self.seconds

    def quantile(self, share: float) -> float:
        """Return the latency in seconds that ``share`` of the commits stay under."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


async def agents(board: Board, count: int, seconds: float) -> Load:
    """Let ``count`` agents commit for ``seconds``: each reads three entries, writes one, waits until it is durable."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def agent(name: str) -> None:
        turn = 0
        while (start := time.perf_counter()) < end:
            transaction = board.begin(name)
            for offset in range(3):
                transaction.get(name, f"entry {(turn + offset) % KEYS}")
            transaction.put(name, f"entry {turn % KEYS}", {"text": TEXT, "turn": turn}, type="note")
            await awaitable(board.submit(transaction))
            latencies.append(time.perf_counter() - start)
            turn += 1

    start = time.perf_counter()
    await asyncio.gather(*(agent(f"agent {number}") for number in range(count)))
    return Load(len(latencies), time.perf_counter() - start, latencies)


def agents_on(
    location: str, count: int, seconds: float, beside: Callable[[Board], AbstractContextManager[Any]] = nullcontext
) -> Load:
    """Run :func:`agents` on a new board at ``location``; keep what it stored batch by batch, the furniture first."""
    with Board.open(location) as board:
        with beside(board), recorded_sizes() as sizes:
            _furnish(board, count)
            load = asyncio.run(agents(board, count, seconds))
        commits = iter([PreparedCommit(commit, tuple(map(_text, commit.writes))) for commit in board.log()])
    load.batches = [list(islice(commits, size)) for size in sizes]
    return load


def throughput(
    figures: Figures,
    name: Callable[[], str],
    raw: Callable[[str, Sequence[Sequence[PreparedCommit]]], float],
    ceiling: str,
    seconds: float,
    repeats: int,
) -> None:
    """Add the commits/s of each number of :data:`AGENTS`, and their share of a ``ceiling``.

    ``raw`` returns the seconds that it takes to store a load's batches, all but the first, in a new place.
    """
    loads: dict[int, list[Load]] = {count: [] for count in AGENTS}
    for _ in range(repeats):
        for count in AGENTS:
            load = agents_on(name(), count, seconds)
            rate = load.commits / raw(name(), load.batches)
            # The next load's board would else share the garbage collector with all commits of this one.
            load.batches.clear()
            loads[count].append(load)
            figures.add(f"board {count}", load.rate)
            figures.add(f"raw {count}", rate)
            figures.add(f"share {count}", load.rate / rate)
            figures.add(f"p99 {count}", load.quantile(0.99))
    for count in AGENTS:
        p50, p99 = (median([load.quantile(share) for load in loads[count]]) * 1e3 for share in (0.5, 0.99))
        beside = f"raw: {figures.median(f'raw {count}'):,.0f}"
        figures.rows.append([f"commits/s, {count} agents", round(figures.median(f"board {count}")), beside, p50, p99])
        figures.bars.append(Bar(f"{count} agents: share of {ceiling}", figures.median(f"share {count}"), 0.7))


def _furnish(board: Board, count: int) -> None:
    transaction = board.begin("furnisher")
    for number in range(count):
        for key in range(KEYS):
            transaction.put(f"agent {number}", f"entry {key}", {"text": TEXT, "turn": -1}, type="note")
    board.commit(transaction)


@contextmanager
def recorded_sizes() -> Iterator[list[int]]:
    """Keep the size of every batch that any board of this process stores meanwhile."""
    sizes: list[int] = []
    append = SqlStorage.append

    def recording(storage: SqlStorage, commits: Sequence[PreparedCommit]) -> None:
        append(storage, commits)
        sizes.append(len(commits))

    with mock.patch.object(SqlStorage, "append", recording):
        yield sizes


def _text(entry: Entry) -> str | None:
    return None if entry.deleted else canonical_json(entry.value)


def raw_seconds(path: Path, batches: Sequence[Sequence[PreparedCommit]]) -> float:
    """Return how long plain ``executemany`` takes to store ``batches`` durably in a new file of the same schema.

    The first of them is there before the clock starts.
    """
    Board.open(path).close()
    prepared = [_statements(batch) for batch in batches]
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in writer_pragmas("full"):
        connection.execute(f"PRAGMA {pragma}").close()
    start = 0.0
    for number, statements in enumerate(prepared):
        if number == 1:
            start = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        for sql, rows in statements:
            connection.executemany(sql, rows)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


def fsync_seconds(folder: Path, times: int = 50) -> float:
    """Return the median time of appending 4 KiB to a file and flushing it."""
    taken: list[float] = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - start)
    return median(taken)


def _statements(batch: Sequence[PreparedCommit]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Return the statements that store a batch, each with its rows."""
    rows, last = BatchRows.of(batch), batch[-1].commit
    superseded = [(row["by_seq"], row["of_topic"], row["of_key"], row["of_version"]) for row in rows.superseded_entries]
    supersede = "UPDATE entry_version SET valid_to=? WHERE topic=? AND key=? AND version=? AND valid_to IS NULL"
    commits, entries = ([tuple(row.values()) for row in kind] for kind in (rows.commits, rows.entries))
    return [
        ("UPDATE board SET head=?, head_hash=?", [(last.seq, last.hash)]),
        (_insert(COMMITS.name, list(rows.commits[0])), commits),
        (supersede, superseded),
        (_insert(ENTRIES.name, list(rows.entries[0])), entries),
    ]


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def in_folder(folder: Path) -> Callable[[], str]:
    """Return a function that names a new board file in ``folder`` at each call."""
    folder.mkdir(exist_ok=True)
    numbers = iter(range(1 << 30))
    return lambda: str(folder / f"board-{next(numbers)}.db")
