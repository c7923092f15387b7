"""Concurrent commits: batches, their order, and threads on one counter."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit, Isolation
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction


def write(board: Board, key: str, value: object, topic: str = "items") -> None:
    tx = board.begin("setup")
    tx.put(topic, key, value, type="item")
    board.commit(tx)


def increment(board: Board, isolation: Isolation) -> Transaction:
    tx = board.begin("agent", isolation=isolation)
    entry = tx.get("items", "n")
    tx.put("items", "n", (entry.value if entry else 0) + 1, type="item")
    return tx


def test_blind_writes_do_not_conflict(board: Board) -> None:
    pair = [board.begin("agent") for _ in range(2)]
    for number, tx in enumerate(pair):
        tx.put("items", "x", number, type="item")
    assert [board.commit(tx).writes[0].version for tx in pair] == [1, 2]


def hold_committer(storage: Any, board: Board, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the next physical commit wait for the returned event, so that what follows gathers into one batch."""
    append, gate, entered = storage.append, threading.Event(), threading.Event()

    def slow(*arguments: object) -> None:
        entered.set()
        assert gate.wait(20)
        append(*arguments)

    monkeypatch.setattr(storage, "append", slow)
    tx = board.begin("holder")
    tx.put("hold", "x", 1, type="item")
    board.submit(tx)
    assert entered.wait(20)
    return gate


def settle(futures: list[Future[Commit]]) -> list[int | type[Exception]]:
    return [future.result().seq if future.exception(20) is None else type(future.exception()) for future in futures]


def test_members_of_one_batch_are_validated_against_each_other(
    board: Board, storage_of: Callable[[Board], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(board, "n", 0)
    transactions = [increment(board, "serializable") for _ in range(3)]
    reader = board.begin("reader")
    reader.query(Predicate(topic="items"))
    reader.put("reports", "sum", 0, type="report")
    gate = hold_committer(storage_of(board), board, monkeypatch)
    futures = [board.submit(tx) for tx in [*transactions, reader]]
    gate.set()
    assert settle(futures) == [3, Conflict, Conflict, Conflict]
    assert board.verify() == 3


def test_the_queue_is_ordered_by_urgency_then_age(
    board: Board, storage_of: Callable[[Board], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_committer(storage_of(board), board, monkeypatch)
    futures = []
    for urgency in (float("inf"), 5.0, 1.0, 5.0):
        tx = board.begin("agent", urgency=urgency)
        tx.put("items", f"{urgency}", 1, type="item")
        futures.append(board.submit(tx))
    gate.set()
    assert settle(futures) == [5, 3, 2, 4]


def test_a_bad_member_does_not_fail_its_batch(
    board: Board, storage_of: Callable[[Board], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_committer(storage_of(board), board, monkeypatch)
    futures = []
    for number in range(3):
        tx = board.begin("agent")
        tx.put("items", f"{number}", 1, type="item")
        if number == 1:
            tx.start_effect("never planned")
        futures.append(board.submit(tx))
    gate.set()
    outcomes = settle(futures)
    assert outcomes[0] == 2 and outcomes[2] == 3 and not isinstance(outcomes[1], int)


def test_no_increment_is_lost_between_threads(board: Board) -> None:
    threads, rounds, conflicts = 8, 25, []

    def work() -> None:
        done = 0
        while done < rounds:
            try:
                board.commit(increment(board, "serializable"))
                done += 1
            except Conflict as conflict:
                conflicts.append(conflict)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = board.get("items", "n")
    assert total is not None and total.value == total.version == threads * rounds
    assert board.verify() == board.head == threads * rounds
    assert conflicts, "eight threads on one counter never met: the test shows nothing"


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("means", ["get", "get_hidden", "rely_on", "guard"])
def test_what_a_transaction_relies_on_must_stand_unless_it_asks_only_for_what_it_writes(
    board: Board, isolation: Isolation, means: str
) -> None:
    write(board, "n", 0)
    found = board.get("items", "n")
    assert found is not None
    tx = board.begin("agent", isolation=isolation)
    if means == "guard":
        tx.guard(found)
    else:
        getattr(tx, means)("items", "n", *([found] if means == "rely_on" else []))
    tx.put("items", "other", 1, type="item")
    write(board, "n", 1)
    if isolation == "snapshot":
        assert board.commit(tx).seq == 3
    else:
        with pytest.raises(Conflict):
            board.commit(tx)
