"""The board's commits beside raw SQLite, its fairness, its idle subscribers, its recovery and its old snapshots.

Every figure is taken with full durability, the raw ceiling from the very rows and batches that the board had stored
just before. ``--peer langgraph`` compares our checkpoint saver with LangGraph's own instead, ``--set server=own``
measures boards in PostgreSQL, on a server that is started for it; ``server=URL`` names another. ``--set fsync=3.6``
measures both sides on a disk whose fsyncs take so many milliseconds longer.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentsys.benchmarks import board_peer, board_postgres
from agentsys.benchmarks.board_load import Figures, fsync_seconds, in_folder, raw_seconds, throughput
from agentsys.benchmarks.board_team import fairness, idle_cost, put, rates_beside
from agentsys.benchmarks.harness import Bar, BenchResult, Options, interleave, other_cpu_share
from agentsys.benchmarks.slow_disk import slowed
from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import PreparedCommit
from agentsys.errors import ConfigurationError

AGENTS: Final = (1, 16, 64, 256)
READS: Final = 500
KEPT: Final = 500
"""Commits that a compaction leaves."""


def main(options: Options) -> BenchResult:
    """Measure. Arguments: ``peer`` (``langgraph``), ``server`` (``own``, or a PostgreSQL URL), ``fsync`` (ms)."""
    peer = options.arguments.get("peer")
    if peer == "langgraph":
        return board_peer.main(options)
    if peer:
        raise ConfigurationError(f"There is no peer {peer!r} of the board.", remedy="Use --peer langgraph.")
    if "server" in options.arguments:
        return board_postgres.main(options)
    later = slowed(options.arguments.get("fsync"))
    figures = Figures()
    busy = other_cpu_share()
    with tempfile.TemporaryDirectory(prefix="agentsys-bench-") as name:
        folder = Path(name)
        seconds = 0.5 if options.quick else 2.0
        repeats = 1 if options.quick else options.repeats
        _throughput(figures, in_folder(folder), folder, seconds, repeats)
        fairness(figures, str(folder / "shared.db"), 2.0 if options.quick else 5.0)
        idle_cost(figures, in_folder(folder / "idle"), seconds, repeats)
        _compaction(figures, in_folder(folder / "compacted"), seconds, repeats)
        _recovery(figures, folder, 20_000 if options.quick else 200_000)
        _snapshots(figures, folder, 20 if options.quick else 200, repeats)
    notes = [
        f"Other processes kept {busy:.1f} of {os.cpu_count()} cores busy before the runs and {other_cpu_share():.1f} "
        "after them.",
        "Each agent reads three entries, writes one of 200 bytes and waits until it is durable (synchronous=FULL).",
    ]
    if later:
        notes.append(f"Every fsync, of either side, was made to take {later:g} ms longer than the disk takes.")
    return BenchResult(
        name="board",
        figure=f"{figures.median('board 16'):,.0f} commits/s at 16 agents, {figures.median('board 256'):,.0f} at 256 "
        f"({figures.median('share 16'):.0%} and {figures.median('share 256'):.0%} of raw SQLite)",
        columns=["what", "figure", "beside it", "p50 ms", "p99 ms"],
        rows=figures.rows,
        bars=figures.bars,
        repetitions=figures.repetitions,
        notes=notes,
    )


def _throughput(figures: Figures, name: Callable[[], str], folder: Path, seconds: float, repeats: int) -> None:
    def raw(place: str, batches: Sequence[Sequence[PreparedCommit]]) -> float:
        figures.add("fsync", fsync_seconds(folder))
        return raw_seconds(Path(place), batches)

    throughput(figures, name, raw, "raw SQLite", seconds, repeats)
    figures.bars += [
        Bar("16 agents: commits/s", figures.median("board 16"), 3_000),
        Bar("256 agents: commits/s", figures.median("board 256"), 7_000),
        Bar("16 agents: p99 in fsyncs", figures.median("p99 16") / figures.median("fsync"), 5, at_least=False),
    ]
    figures.rows.append(["fsync of 4 KiB, ms", round(figures.median("fsync") * 1e3, 2), "", "", ""])


def _compaction(figures: Figures, name: Callable[[], str], seconds: float, repeats: int) -> None:
    arms = ("not compacted", "beside compactions")
    rates_beside(figures, arms, "compacted all the time", compacting, name, seconds, repeats)


@contextmanager
def compacting(board: Board) -> Iterator[None]:
    """Compact ``board`` again and again, so that what is dropped is as much as what comes."""
    ended = threading.Event()

    def compact() -> None:
        while not ended.wait(0.01):
            board.compact(Keep(commits=KEPT))

    thread = threading.Thread(target=compact)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _recovery(figures: Figures, folder: Path, rows: int) -> None:
    path = folder / "recovery.db"
    process = multiprocessing.get_context("spawn").Process(target=fill_and_die, args=(str(path), rows))
    process.start()
    process.join()
    start = time.perf_counter()
    with Board.open(path) as board:
        put(board, "after", "recovery", True)
        taken = (time.perf_counter() - start) * 1e6 / board.head
    figures.add("recovery", taken)
    figures.rows.append(["first commit after a kill, s a million commits", round(taken, 2), f"of {rows:,}", "", ""])
    figures.bars.append(Bar("recovery, s per million log rows", taken, 5, at_least=False))


def fill_and_die(path: str, rows: int) -> None:
    """Write ``rows`` commits and end without closing anything, as a kill does."""
    board = Board.open(path, durability="normal")
    waiting = []
    for number in range(rows):
        transaction = board.begin("bench")
        transaction.put("log", f"entry {number % 5_000}", number, type="note")
        waiting.append(board.submit(transaction))
        if len(waiting) == 512:
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    os._exit(0)


def _snapshots(figures: Figures, folder: Path, versions: int, repeats: int) -> None:
    path = folder / "versions.db"
    with Board.open(path, durability="normal") as board:
        for version in range(versions):
            transaction = board.begin("bench")
            for number in range(READS):
                transaction.put("topic", f"entry {number}", [version, number], type="note")
            board.commit(transaction)

    def gets(at: int) -> None:
        for number in range(READS):
            reader.get("topic", f"entry {number}", at=at)

    def query(at: int) -> None:
        assert len(reader.query(Predicate(topic="topic"), at=at)) == READS

    def seconds(read: Callable[[int], None], at: int) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            read(at)
            return time.perf_counter() - start

        return run

    # Another process's reads: the writer answers those of the head from memory.
    with Board.open_read_only(path) as reader:
        for what, read in (("entries one by one", gets), ("their topic at once", query)):
            times = ("head", f"{versions // 2} back", f"{versions - 1} back")
            head, old, oldest = (f"{what}, {when}" for when in times)
            arms = {head: seconds(read, versions), old: seconds(read, versions // 2), oldest: seconds(read, 1)}
            figures.repetitions.update(interleave(arms, 2 * max(repeats, 5)))
            for arm in (old, oldest):
                beside = f"head: {figures.median(head) * 1e3:.1f}"
                figures.rows.append([f"{READS} {arm}, ms", round(figures.median(arm) * 1e3, 1), beside, "", ""])
                ratio = figures.median(arm) / figures.median(head)
                figures.bars.append(Bar(f"{arm}: times a head read", ratio, 1.2, at_least=False))
