"""One trial: processes work on one board, some are killed if asked, and the checkers judge what all of them saw."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from agentsys.benchmarks.boards import board_location
from agentsys.benchmarks.isolation.anomalies import Anomaly, forbidden
from agentsys.benchmarks.isolation.histories import ListTransaction
from agentsys.benchmarks.isolation.list_append import check_lists
from agentsys.benchmarks.isolation.predicate_reads import PredicateTransaction, check_predicates
from agentsys.benchmarks.isolation.worker import Attempt, Task, attempts, work
from agentsys.benchmarks.isolation.workloads import final_reads
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit, Isolation

PROCESSES: Final = 8
WORKER: Final = "agentsys.benchmarks.isolation.worker"
READER: Final = 1_000_000
"""Number of the process that reads every list once more at the end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trial is: ``count`` transactions in all, ``kills`` processes killed and replaced on the way.

    The board is a file, or on the PostgreSQL ``server`` at a URL.
    """

    workload: str
    isolation: Isolation
    count: int
    kills: int = 0
    processes: int = PROCESSES
    seed: int = 1
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a plan. ``found`` holds what the level permits too; ``log`` is empty for lists."""

    plan: Plan
    outcomes: Counter[str]
    found: list[Anomaly]
    seconds: float
    lists: list[ListTransaction]
    predicates: list[PredicateTransaction]
    log: list[Commit]

    @property
    def forbidden(self) -> list[Anomaly]:
        return forbidden(self.found, self.plan.isolation)


def run_trial(plan: Plan) -> Trial:
    """Run ``plan`` on a new board and check it; raises what opening and verifying the board raise."""
    with tempfile.TemporaryDirectory(prefix="agentsys-isolation-") as folder:
        location = board_location(Path(folder), plan.server)
        began = time.monotonic()
        tasks = _run_processes(plan, location, Path(folder))
        seconds = time.monotonic() - began
        records = [attempt for task in tasks for attempt in attempts(task)]
        with Board.open(location) as board:
            board.verify()
            if plan.workload == "list-append":
                records.append(_read_everything(board, records))
                lists = [record.as_lists() for record in records]
                return Trial(plan, _outcomes(records), check_lists(lists), seconds, lists, [], [])
            log = board.log()
        predicates = [record.as_predicates(plan.isolation) for record in records]
        return Trial(plan, _outcomes(records), check_predicates(log, predicates), seconds, [], predicates, log)


def _outcomes(records: Sequence[Attempt]) -> Counter[str]:
    return Counter(record.outcome for record in records)


def _run_processes(plan: Plan, location: str, folder: Path) -> list[Task]:
    """Return the tasks of all processes, the killed ones too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WORKER])
    choices = random.Random(plan.seed)
    share = plan.count // plan.processes
    tasks: list[Task] = []
    running: list[tuple[BaseProcess, Task]] = []

    def start(count: int) -> None:
        number = len(tasks) + 1
        record = folder / f"{number}.jsonl"
        task = Task(location, plan.workload, plan.isolation, number, count, plan.seed * 1000 + number, record)
        process = context.Process(target=work, args=(task,))
        process.start()
        tasks.append(task)
        running.append((process, task))

    for _ in range(plan.processes):
        start(share)
    # The first waits until every process works, so that a kill meets work under way.
    for _ in range(plan.kills):
        _wait_for_progress(running)
        time.sleep(choices.uniform(0, 0.5))
        process, task = running.pop(choices.randrange(len(running)))
        process.kill()
        process.join()
        start(max(share - sum(attempt.outcome == "ok" for attempt in attempts(task)), 1))
    for process, task in running:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"process {task.process} ended with {process.exitcode}")
    return tasks


def _wait_for_progress(running: Sequence[tuple[BaseProcess, Task]]) -> None:
    while not all(task.record.exists() or not process.is_alive() for process, task in running):
        time.sleep(0.01)


def _read_everything(board: Board, records: Sequence[Attempt]) -> Attempt:
    keys = sorted({operation[1] for record in records for operation in record.done})
    began = time.monotonic_ns()
    tx = board.begin("reader")
    done = final_reads(tx, keys)
    seq = board.commit(tx).seq
    return Attempt(READER, "ok", tx.id, tx.snapshot, seq, done, began, time.monotonic_ns())
