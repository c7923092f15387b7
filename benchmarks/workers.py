"""Workers: how long the runs of a worker wait that is killed, until others execute them (time to recovery)."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from agentsys import topics
from agentsys.benchmarks.boards import board_location
from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.workers import Worker

WORKERS: Final = 4
RUNS: Final = 12
STEP_SECONDS: Final = 0.02
MOST_SECONDS: Final = 1.0
"""Bar, with a board in a file: all runs of the dead worker are executed again."""
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Loss:
    """One worker lost: its runs, how long each waited, the longest first, and runs of others that moved, too."""

    seconds: list[float]
    others: int


def main(options: Options) -> BenchResult:
    """Kill one of four workers again and again; ``--set server=URL`` puts the boards on a PostgreSQL server."""
    server = options.arguments.get("server")
    losses = [lose_one(server) for _ in range(2 if options.quick else options.repeats)]
    longest = [loss.seconds[0] for loss in losses]
    all_seconds = [seconds for loss in losses for seconds in loss.seconds]
    others = sum(loss.others for loss in losses)
    bars = [Bar("runs of live workers that moved", others, 0, at_least=False)]
    if server is None:
        what = "seconds until the last run of a killed worker goes on, median"
        bars.append(Bar(what, _median(longest), MOST_SECONDS, at_least=False))
    return BenchResult(
        name="workers",
        figure=f"a dead worker's runs went on after {_median(all_seconds):.2f} s, the last after {max(longest):.2f} s",
        columns=["workers killed", "runs that moved", "median s", "longest s", "runs of others that moved"],
        rows=[[len(losses), len(all_seconds), _median(all_seconds), max(longest), others]],
        bars=bars,
        repetitions={"last run": longest},
        notes=[] if server is None else ["In PostgreSQL a process counts as dead once its lease (5 s) has run out."],
    )


def lose_one(server: str | None) -> Loss:
    """Let workers share runs, kill the one that has most of them, and see who goes on with them."""
    with tempfile.TemporaryDirectory(prefix="agentsys-workers-") as name:
        location = board_location(Path(name), server)
        with Board.open(location) as board:
            asyncio.run(_enqueue(board))
        with _team(location) as team, Board.open_read_only(location) as board:
            held = _settled_leases(board)
            epochs = [holder for _, holder in held.values()]
            busiest = max(set(epochs), key=epochs.count)
            killed_at = time.time()
            team[busiest].kill()
            lost = {run for run, (_, holder) in held.items() if holder == busiest}
            moved = _wait_until_moved(board, lost, busiest)
            after = _leases(board)
            seconds = sorted((at - killed_at for at in moved.values()), reverse=True)
            return Loss(seconds, sum(after[run] != held[run] for run in held.keys() - lost))


async def endless(context: Context, value: Any) -> None:
    """Record step after step."""
    while True:
        await context.now()
        await asyncio.sleep(STEP_SECONDS)


async def _enqueue(board: Board) -> None:
    runtime = Runtime(board, ScriptedModel(str), workflows=[endless])
    for _ in range(RUNS):
        await runtime.enqueue("endless")


def work(location: str, epochs: Any) -> None:
    """Be a worker until killed; tell by which opening of the board."""

    async def serve() -> None:
        with Board.open(location) as board:
            epochs.send(board.epoch)
            runtime = Runtime(board, ScriptedModel(str), workflows=[endless])
            # All but one of them have room for all the runs.
            await Worker(RunSupervisor(runtime), most=RUNS // (WORKERS - 1)).serve()

    asyncio.run(serve())


@contextmanager
def _team(location: str) -> Iterator[dict[int, BaseProcess]]:
    """Give worker processes by their openings of the board."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    team: dict[int, BaseProcess] = {}
    started = []
    try:
        for _ in range(WORKERS):
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(location, sending))
            process.start()
            started.append(process)
            team[receiving.recv()] = process
        yield team
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.join()


def _leases(board: Board) -> dict[str, tuple[int, int]]:
    """Return the version and the holder of each run's lease."""
    found = {}
    for entry in board.query(Predicate(topic=topics.LEASES)):
        body: Any = entry.value
        found[entry.key] = (entry.version, int(body["held_by"]))
    return found


def _settled_leases(board: Board) -> dict[str, tuple[int, int]]:
    """Return the leases once every run is executed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = _leases(board)
        if len(found) == RUNS and all(holder for _, holder in found.values()):
            return found
        time.sleep(0.02)
    raise RuntimeError("the workers do not take the runs")


def _wait_until_moved(board: Board, runs: set[str], away_from: int) -> dict[str, float]:
    """Return when each run got another holder, in unix seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = _leases(board)
        if all(found[run][1] not in (0, away_from) for run in runs):
            return {run: board.history(topics.LEASES, run)[-1].committed_at for run in runs}
        time.sleep(0.02)
    raise RuntimeError("nobody takes the runs of the dead worker")


def _median(values: list[float]) -> float:
    return statistics.median(values)
