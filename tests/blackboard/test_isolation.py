"""Anomalies: what each isolation level prevents, and what the weaker one shows."""

import threading
from concurrent.futures import Future

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict, KeyConflict, PredicateConflict
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Commit, Isolation, Transaction

OPEN_ITEMS = Predicate(topic="items", equals={"state": "open"})


def write(board: Board, key: str, value: object, topic: str = "items") -> None:
    tx = board.begin("setup")
    tx.put(topic, key, value, type="item")
    board.commit(tx)


def increment(board: Board, isolation: Isolation) -> Transaction:
    tx = board.begin("agent", isolation=isolation)
    entry = tx.get("items", "n")
    tx.put("items", "n", (entry.value if entry else 0) + 1, type="item")
    return tx


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_lost_update_is_prevented(board: Board, isolation: Isolation) -> None:
    write(board, "n", 0)
    first, second = increment(board, isolation), increment(board, isolation)
    board.commit(first)
    with pytest.raises(Conflict, match="AGS-0210") as caught:
        board.commit(second)
    (item,) = caught.value.items
    assert isinstance(item, KeyConflict)
    assert (item.expected, item.old and item.old.value, item.new and item.new.value) == (1, 0, 1)


def skew(board: Board, isolation: Isolation) -> tuple[Transaction, Transaction]:
    """Two transactions that each read both doctors and send one home."""
    write(board, "ann", {"state": "on call"})
    write(board, "bob", {"state": "on call"})
    pair = []
    for own in ("ann", "bob"):
        tx = board.begin(own, isolation=isolation)
        assert tx.get("items", "ann") and tx.get("items", "bob")
        tx.put("items", own, {"state": "home"}, type="item")
        pair.append(tx)
    return pair[0], pair[1]


def test_write_skew_is_prevented_when_serializable(board: Board) -> None:
    first, second = skew(board, "serializable")
    board.commit(first)
    with pytest.raises(Conflict):
        board.commit(second)


def test_write_skew_shows_under_snapshot(board: Board) -> None:
    first, second = skew(board, "snapshot")
    board.commit(first)
    board.commit(second)
    assert [entry.value for entry in board.query(Predicate(topic="items"))] == [{"state": "home"}] * 2


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "open"), ("done", "open"), ("open", "done"), ("open", None)],
    ids=["inserted", "enters by its new image", "leaves by its old image", "deleted"],
)
def test_phantoms_are_caught_in_old_and_new_image(board: Board, before: str | None, after: str | None) -> None:
    if before is not None:
        write(board, "x", {"state": before})
    tx = board.begin("agent")
    tx.query(OPEN_ITEMS)
    tx.put("reports", "count", 1, type="report")
    other = board.begin("other")
    if after is None:
        other.delete("items", "x")
    else:
        other.put("items", "x", {"state": after}, type="item")
    board.commit(other)
    with pytest.raises(Conflict) as caught:
        board.commit(tx)
    (item,) = caught.value.items
    assert isinstance(item, PredicateConflict) and item.predicate == OPEN_ITEMS
    states = [entry and entry.value["state"] for entry in (item.old, item.new)]
    assert states == [before, after]


def test_a_change_outside_the_set_is_no_phantom(board: Board) -> None:
    write(board, "x", {"state": "done"})
    tx = board.begin("agent")
    tx.query(OPEN_ITEMS)
    tx.put("reports", "count", 0, type="report")
    write(board, "x", {"state": "archived"})
    board.commit(tx)


def test_phantoms_show_under_snapshot(board: Board) -> None:
    tx = board.begin("agent", isolation="snapshot")
    tx.query(OPEN_ITEMS)
    tx.put("reports", "count", 0, type="report")
    write(board, "x", {"state": "open"})
    board.commit(tx)


def test_absence_is_a_read(board: Board) -> None:
    tx = board.begin("agent")
    assert tx.get("items", "x") is None
    tx.put("reports", "count", 0, type="report")
    write(board, "x", 1)
    with pytest.raises(Conflict) as caught:
        board.commit(tx)
    (item,) = caught.value.items
    assert isinstance(item, KeyConflict) and item.expected == 0 and item.old is None


def test_blind_writes_do_not_conflict(board: Board) -> None:
    pair = [board.begin("agent") for _ in range(2)]
    for number, tx in enumerate(pair):
        tx.put("items", "x", number, type="item")
    assert [board.commit(tx).writes[0].version for tx in pair] == [1, 2]


def hold_committer(board: Board, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the next physical commit wait for the returned event, so that what follows gathers into one batch."""
    storage = board._committer._storage
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


def test_members_of_one_batch_are_validated_against_each_other(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    write(board, "n", 0)
    transactions = [increment(board, "serializable") for _ in range(3)]
    reader = board.begin("reader")
    reader.query(Predicate(topic="items"))
    reader.put("reports", "sum", 0, type="report")
    gate = hold_committer(board, monkeypatch)
    futures = [board.submit(tx) for tx in [*transactions, reader]]
    gate.set()
    assert settle(futures) == [3, Conflict, Conflict, Conflict]
    assert board.verify() == 3


def test_the_queue_is_ordered_by_urgency_then_age(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = hold_committer(board, monkeypatch)
    futures = []
    for urgency in (float("inf"), 5.0, 1.0, 5.0):
        tx = board.begin("agent", urgency=urgency)
        tx.put("items", f"{urgency}", 1, type="item")
        futures.append(board.submit(tx))
    gate.set()
    assert settle(futures) == [5, 3, 2, 4]


def test_a_bad_member_does_not_fail_its_batch(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = hold_committer(board, monkeypatch)
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
