"""One client process of the isolation benchmark, and the file in which it keeps what it did and saw.

A line is written before each commit and one after it, each by a single system call: killed in between, the process
leaves a transaction of which nobody knows whether it was committed.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsys.benchmarks.isolation.histories import ListTransaction, Operation, Outcome
from agentsys.benchmarks.isolation.predicate_reads import PredicateTransaction, SetRead
from agentsys.benchmarks.isolation.workloads import workload
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.conflicts import Conflict
from agentsys.errors import BoardError


@dataclass(frozen=True, slots=True)
class Task:
    """What one process does: ``count`` committed transactions of ``workload`` on the board at ``location``."""

    location: str
    workload: str
    isolation: Isolation
    process: int
    count: int
    seed: int
    record: Path


@dataclass(frozen=True, slots=True)
class Attempt:
    """One transaction as its client knows it; ``seq`` is the commit it was told of."""

    process: int
    outcome: Outcome
    tx_id: str
    snapshot: int
    seq: int | None
    done: list[Any]
    began: int
    ended: int

    def as_lists(self) -> ListTransaction:
        operations = tuple(Operation.from_json(item) for item in self.done)
        return ListTransaction(self.process, self.outcome, operations, self.began, self.ended)

    def as_predicates(self, isolation: Isolation) -> PredicateTransaction:
        reads = tuple(SetRead(conditions, frozenset(map(tuple, rows))) for conditions, rows in self.done)
        return PredicateTransaction(self.tx_id, isolation, self.snapshot, self.seq, reads)


def work(task: Task) -> None:
    """Commit until ``task.count`` transactions went through, keeping the record."""
    client = workload(task.workload, task.process, random.Random(task.seed), task.isolation)
    record = os.open(task.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Board.open(task.location, durability="normal") as board:
        done = 0
        while done < task.count:
            began = time.monotonic_ns()
            tx = board.begin(f"process-{task.process}", isolation=task.isolation)
            seen = client.perform(tx)
            _write(record, [tx.id, tx.snapshot, began, seen])
            outcome: Outcome = "fail"
            seq = None
            try:
                seq = board.commit(tx).seq
                outcome, done = "ok", done + 1
            except Conflict:
                pass
            except BoardError:
                outcome = "info"
            _write(record, [outcome, seq, time.monotonic_ns()])
    os.close(record)


def attempts(task: Task) -> Iterator[Attempt]:
    """Read the record of a process that has ended or was killed."""
    if not task.record.exists():
        return
    with task.record.open(encoding="utf-8") as file:
        for line in file:
            tx_id, snapshot, began, done = json.loads(line)
            after = file.readline()
            unknown: tuple[Outcome, None, int] = ("info", None, time.monotonic_ns())
            outcome, seq, ended = json.loads(after) if after else unknown
            yield Attempt(task.process, outcome, tx_id, snapshot, seq, done, began, ended)


def _write(record: int, line: list[Any]) -> None:
    os.write(record, json.dumps(line, separators=(",", ":")).encode() + b"\n")
