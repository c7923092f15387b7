"""The board's commits in PostgreSQL beside one raw connection, those of other processes, fairness, idle subscribers."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from agentsys.benchmarks.board_load import Figures, agents, throughput
from agentsys.benchmarks.board_team import fairness, idle_cost
from agentsys.benchmarks.boards import board_location
from agentsys.benchmarks.harness import BenchResult, Options, other_cpu_share
from agentsys.benchmarks.postgres_server import OWN, running_server
from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.board import Board
from agentsys.blackboard.postgres.address import is_postgres
from agentsys.blackboard.schema import COMMITS, ENTRIES
from agentsys.blackboard.storage import PreparedCommit
from agentsys.errors import ConfigurationError

FOLLOWING: Final = 16
"""Agents of a process that does not lead."""
_Statements = list[tuple[str, list[tuple[Any, ...]]]]


def main(options: Options) -> BenchResult:
    """Measure boards on the PostgreSQL server that the argument ``server`` names, or on one of our own."""
    figures = Figures()
    busy = other_cpu_share()
    seconds, repeats = (0.5, 1) if options.quick else (2.0, options.repeats)
    server = options.arguments["server"]
    if server != OWN and not is_postgres(server):
        raise ConfigurationError(
            f"{server!r} is no PostgreSQL server.",
            remedy="Use --set server=own, or server=postgresql://user@host/database.",
        )
    with ExitStack() as stack:
        url = stack.enter_context(running_server()).url if server == OWN else server
        name = partial(board_location, None, url)
        throughput(figures, name, raw_seconds, "a raw connection", seconds, repeats)
        _following(figures, name, seconds, repeats)
        fairness(figures, name(), 2.0 if options.quick else 5.0)
        idle_cost(figures, name, seconds, repeats)
    return BenchResult(
        name="board-postgres",
        figure=f"{figures.median('board 16'):,.0f} commits/s at 16 agents, {figures.median('board 256'):,.0f} at 256 "
        f"({figures.median('share 16'):.0%} and {figures.median('share 256'):.0%} of one raw connection)",
        columns=["what", "figure", "beside it", "p50 ms", "p99 ms"],
        rows=figures.rows,
        bars=figures.bars,
        repetitions=figures.repetitions,
        notes=[
            f"Other processes kept {busy:.1f} of {os.cpu_count()} cores busy before the runs and "
            f"{other_cpu_share():.1f} after them.",
            "Each agent reads three entries, writes one of 200 bytes and waits until it is durable. Raw: the same rows "
            "in the same batches by executemany, prepared beforehand.",
        ],
    )


def _following(figures: Figures, name: Callable[[], str], seconds: float, repeats: int) -> None:
    """Add what the agents of a process come to whose commits another process makes."""
    for _ in range(repeats):
        location = name()
        with Board.open(location), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rate, p50, p99 = pool.submit(follow, location, seconds).result()
        figures.add("following", rate)
        figures.add("following p50", p50)
        figures.add("following p99", p99)
    p50, p99 = (figures.median(f"following {which}") * 1e3 for which in ("p50", "p99"))
    figures.rows.append(
        [f"commits/s, {FOLLOWING} agents of another process", round(figures.median("following")), "", p50, p99]
    )


def follow(location: str, seconds: float) -> tuple[float, float, float]:
    """Let agents commit through the process that leads; return commits/s and two quantiles in seconds."""
    with Board.open(location) as board:
        load = asyncio.run(agents(board, FOLLOWING, seconds))
    return load.rate, load.quantile(0.5), load.quantile(0.99)


def raw_seconds(location: str, batches: Sequence[Sequence[PreparedCommit]]) -> float:
    """Return how long one connection takes to store ``batches`` by ``executemany`` in a new board's tables.

    The first of them is there before the clock starts, and no row is made from a commit while it runs.
    """
    from agentsys.blackboard.postgres.address import Address
    from agentsys.blackboard.postgres.connections import connect

    Board.open(location).close()
    prepared = [_statements(batch) for batch in batches]
    address = Address.parse(location)
    start = 0.0
    with connect(address, f"-c search_path={address.schema}") as connection:
        for number, statements in enumerate(prepared):
            if number == 1:
                start = time.perf_counter()
            with connection.transaction(), connection.cursor() as cursor:
                for sql, rows in statements:
                    cursor.executemany(sql.encode(), rows)
        return time.perf_counter() - start


def _statements(batch: Sequence[PreparedCommit]) -> _Statements:
    """Return the statements that store a batch, each with its rows."""
    rows, last = BatchRows.of(batch), batch[-1].commit
    superseded = [(row["by_seq"], row["of_topic"], row["of_key"], row["of_version"]) for row in rows.superseded_entries]
    commits, entries = ([tuple(row.values()) for row in kind] for kind in (rows.commits, rows.entries))
    supersede = "UPDATE entry_version SET valid_to=%s WHERE topic=%s AND key=%s AND version=%s AND valid_to IS NULL"
    return [
        ("UPDATE board SET head=%s, head_hash=%s", [(last.seq, last.hash)]),
        (_insert(COMMITS.name, list(rows.commits[0])), commits),
        *([(supersede, superseded)] if superseded else []),
        (_insert(ENTRIES.name, list(rows.entries[0])), entries),
    ]


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
