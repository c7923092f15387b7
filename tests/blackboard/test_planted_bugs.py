"""Bugs planted in the validation: the anomaly matrix and the history checkers each notice all of them."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentsys.benchmarks.isolation.anomalies import Anomaly, forbidden
from agentsys.benchmarks.isolation.list_append import check_lists
from agentsys.benchmarks.isolation.predicate_reads import check_predicates
from agentsys.benchmarks.isolation.worker import Attempt
from agentsys.benchmarks.isolation.workloads import WORKLOADS, Workload, workload
from agentsys.blackboard import validation
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import CommitRequest, Isolation
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import Change
from agentsys.blackboard.transactions import Transaction

CLIENTS = 3
TRANSACTIONS = 800
CHECKED = 200  # after so many more


def skip_predicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "_changed_sets", lambda request, state: ())


def see_new_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def concerns(change: Change, predicate: Predicate) -> bool:
        return predicate.matches(change.new)

    monkeypatch.setattr(Change, "concerns", concerns)


def overlook_the_first_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    right = validation.validate

    def validate(request: CommitRequest, state: validation.BatchState) -> None:
        right(replace(request, snapshot=request.snapshot + 1), state)

    monkeypatch.setattr("agentsys.blackboard.preparation.validate", validate)


BUGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "predicates are not validated": skip_predicates,
    "only the new image is looked at": see_new_images_only,
    "the first commit after the snapshot is overlooked": overlook_the_first_commit,
}


@dataclass
class Client:
    """A client that does one transaction after another, each open while others commit."""

    number: int
    work: Workload
    tx: Transaction | None = None
    done: list[Any] | None = None
    began: int = 0

    def step(self, board: Board, isolation: Isolation) -> Attempt | None:
        """Begin a transaction and do its work, or commit the one that is open."""
        if self.tx is None:
            self.began = time.monotonic_ns()
            self.tx = board.begin(f"client-{self.number}", isolation=isolation)
            self.done = self.work.perform(self.tx)
            return None
        tx, done, self.tx = self.tx, self.done or [], None
        try:
            seq = board.commit(tx).seq
        except Conflict:
            return Attempt(self.number, "fail", tx.id, tx.snapshot, None, done, self.began, time.monotonic_ns())
        return Attempt(self.number, "ok", tx.id, tx.snapshot, seq, done, self.began, time.monotonic_ns())


def anomalies(board: Board, name: str, isolation: Isolation) -> list[Anomaly]:
    """Interleave clients at random, the same way each time, and return the first forbidden anomalies that are found."""
    choices = random.Random(5)
    clients = [Client(number, workload(name, number, choices, isolation)) for number in range(1, CLIENTS + 1)]
    attempts: list[Attempt] = []
    for _ in range(TRANSACTIONS // CHECKED):
        made = [choices.choice(clients).step(board, isolation) for _ in range(2 * CHECKED)]
        attempts += [attempt for attempt in made if attempt is not None]
        if name == "list-append":
            found = check_lists([attempt.as_lists() for attempt in attempts])
        else:
            found = check_predicates(board.log(), [attempt.as_predicates(isolation) for attempt in attempts])
        if wrong := forbidden(found, isolation):
            return wrong
    return []


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_without_a_bug_nothing_is_found(board: Board, name: str, isolation: Isolation) -> None:
    assert anomalies(board, name, isolation) == []


@pytest.mark.parametrize("bug", BUGS)
def test_the_predicate_checker_finds_it(board: Board, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    BUGS[bug](monkeypatch)
    assert "phantom" in {anomaly.kind for anomaly in anomalies(board, "predicates", "serializable")}


@pytest.mark.parametrize("bug", ["predicates are not validated", "the first commit after the snapshot is overlooked"])
def test_the_cycle_checker_finds_it(board: Board, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    # Lists only grow, so nothing ever leaves a set by its old image here.
    BUGS[bug](monkeypatch)
    assert any(anomaly.kind.startswith("G") for anomaly in anomalies(board, "list-append", "serializable"))


def test_a_lost_update_under_snapshot_is_found_by_both(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    overlook_the_first_commit(monkeypatch)
    assert "lost-update" in {anomaly.kind for anomaly in anomalies(board, "predicates", "snapshot")}
    with Board.open(":memory:") as other:
        assert anomalies(other, "list-append", "snapshot")
