"""Policies for conflicts: told and judged again, done again, made one by a function, or given an exclusive turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentsys.blackboard import resolution
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.conflicts import Conflict, ConflictItem, KeyConflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.resolution import ESCALATE_AFTER, ConflictPolicy, transact
from agentsys.blackboard.sql_storage import SqlStorage
from agentsys.blackboard.storage import PreparedCommit
from agentsys.blackboard.transactions import Transaction


def put(board: Board, key: str, value: Json, label: Label | None = None, type: str = "note") -> None:
    tx = board.begin("ann")
    tx.put("notes", key, value, type=type, label=label)
    board.commit(tx)


def value(board: Board, key: str) -> Any:
    entry = board.get("notes", key)
    return None if entry is None else entry.value


def increment(tx: Transaction, changes: Sequence[ConflictItem] = ()) -> None:
    entry = tx.get("notes", "n")
    tx.put("notes", "n", (entry.value if entry else 0) + 1, type="note")  # type: ignore[operator]


def in_threads(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("policy", ["repair", "retry", "escalate"])
def test_read_modify_write_loses_nothing_under_any_policy(board: Board, policy: ConflictPolicy) -> None:
    def work() -> None:
        for _ in range(20):
            transact(board, "ann", increment, policies={"note": policy}, attempts=1000)

    in_threads(4, work)
    assert value(board, "n") == 80


def meddled(board: Board, told: list[Sequence[ConflictItem]], times: int) -> Callable[..., None]:
    """Work that finds its entry changed by somebody else, so many times."""

    def work(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
        told.append(changes)
        tx.get("notes", "n")
        tx.put("notes", "n", "mine", type="note")
        if len(told) <= times:
            put(board, "n", f"theirs {len(told)}")

    return work


def test_repair_tells_what_changed_and_retry_does_not(board: Board) -> None:
    told: list[Sequence[ConflictItem]] = []
    transact(board, "ann", meddled(board, told, 1))
    assert told[0] == () and isinstance(told[1][0], KeyConflict) and told[1][0].new is not None
    assert told[1][0].new.value == "theirs 1"
    told.clear()
    transact(board, "ann", meddled(board, told, 1), policies={"note": "retry"})
    assert told == [(), ()]


def test_after_the_last_attempt_the_conflict_is_the_callers(board: Board) -> None:
    told: list[Sequence[ConflictItem]] = []
    with pytest.raises(Conflict):
        transact(board, "ann", meddled(board, told, 99), policies={"note": "retry"}, attempts=3)
    assert len(told) == 3 and value(board, "n") == "theirs 3"


def union(base: Json, mine: Json, theirs: Json) -> Json:
    assert isinstance(mine, dict)
    return {**(theirs if isinstance(theirs, dict) else {}), **mine}


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_function_makes_both_values_one_without_doing_the_work_again(board: Board, isolation: Isolation) -> None:
    put(board, "n", {"base": 0}, Label.trusted("ann", Readers.of("ann", "bob")))
    runs = []

    def work(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
        runs.append(tx.id)
        tx.get("notes", "n")
        tx.put("notes", "n", {"mine": 1}, type="note")
        put(board, "n", {"theirs": 2}, Label(frozenset({"web"}), Readers.of("ann")))

    transact(board, "ann", work, policies={"note": union}, isolation=isolation)
    entry = board.get("notes", "n")
    assert entry is not None and entry.value == {"theirs": 2, "mine": 1} and len(runs) == 1
    assert "web" in entry.label.influencers and entry.label.readers == Readers.of("ann"), "labels join"
    assert [ref.version for ref in entry.derived_from] == [1, 2], "it comes of what both saw"


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_function_is_given_the_value_that_was_read_though_the_work_changed_it_in_place(
    board: Board, isolation: Isolation
) -> None:
    put(board, "n", {"count": 1, "other": 1})

    def mine_where_it_changed(base: Any, mine: Any, theirs: Any) -> Json:
        return {**theirs, **{name: item for name, item in mine.items() if item != base.get(name)}}

    def work(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
        entry: Any = tx.get("notes", "n")
        entry.value["count"] += 1
        tx.put("notes", "n", entry.value, type="note")
        put(board, "n", {"count": 1, "other": 2})

    transact(board, "ann", work, policies={"note": mine_where_it_changed}, isolation=isolation)
    assert value(board, "n") == {"count": 2, "other": 2}


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_function_is_told_that_the_other_ended_the_entry(board: Board, isolation: Isolation) -> None:
    put(board, "n", {"base": 0})
    told = []

    def kept(base: Json, mine: Json, theirs: Json) -> Json:
        told.append(theirs)
        return mine

    def work(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
        tx.get("notes", "n")
        tx.put("notes", "n", {"mine": 1}, type="note")
        other = board.begin("bob")
        other.delete("notes", "n")
        board.commit(other)

    transact(board, "ann", work, policies={"note": kept}, isolation=isolation, attempts=1)
    assert value(board, "n") == {"mine": 1} and told == [None]


def test_a_function_does_not_hide_that_something_else_changed(board: Board) -> None:
    put(board, "n", {})
    put(board, "other", 1)
    runs = []

    def work(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
        runs.append(tx.id)
        tx.get("notes", "other")
        tx.query(Predicate(topic="notes", key_from="x"))
        tx.get("notes", "n")
        tx.put("notes", "n", {"mine": 1}, type="note")
        if len(runs) == 1:
            put(board, "n", {"theirs": 2})
            put(board, "other", 2)
        if len(runs) == 2:
            put(board, "n", {"theirs": 3})
            put(board, "x", 1)

    transact(board, "ann", work, policies={"note": union})
    assert (len(runs) == 3 and value(board, "n") == {"theirs": 3, "mine": 1}) or len(runs) == 3


class Meddler:
    """Somebody who writes the same entry all the time."""

    def __init__(self, board: Board) -> None:
        self.board, self.stop, self.writes = board, threading.Event(), 0
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.is_set():
            put(self.board, "n", self.writes)
            self.writes += 1

    def __enter__(self) -> Meddler:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def slow(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
    tx.get("notes", "n")
    time.sleep(0.05)
    tx.put("notes", "done", 1, type="note")


def test_an_exclusive_turn_ends_losing(board: Board) -> None:
    with Meddler(board) as meddler:
        while meddler.writes < 3:
            time.sleep(0.01)
        with pytest.raises(Conflict):
            transact(board, "ann", slow, policies={"note": "retry"}, attempts=4)
        transact(board, "ann", slow, policies={"note": "escalate"}, attempts=4)
        before = meddler.writes
        while meddler.writes < before + 3:
            time.sleep(0.01)
    assert value(board, "done") == 1 and value(board, "n") == meddler.writes - 1, "no write of others was lost"


def lost(board: Board, *keys: str) -> Transaction:
    tx = board.begin("ann")
    for key in keys:
        tx.get("notes", key)
    return tx


def test_a_hold_bars_only_what_it_names_and_ends_by_itself(board: Board) -> None:
    held = board.hold(lost(board, "n"), 0.3)
    put(board, "other", 1)
    began = time.monotonic()
    put(board, "n", 1)
    assert time.monotonic() - began > 0.2, "the write waited for the hold's end"
    held.put("notes", "n", 2, type="note")
    board.commit(held)
    assert value(board, "n") == 2


def test_a_hold_that_ends_while_others_are_stored_frees_who_waits(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SqlStorage.append

    def slowly(storage: SqlStorage, commits: Sequence[PreparedCommit]) -> None:
        time.sleep(0.6)
        append(storage, commits)

    board.hold(lost(board, "n"), 0.3)
    barred, other = board.begin("ann"), board.begin("ann")
    barred.put("notes", "n", 1, type="note")
    other.put("notes", "other", 1, type="note")
    with monkeypatch.context() as patch:
        patch.setattr(SqlStorage, "append", slowly)
        waiting = board.submit(barred)
        board.commit(other)
    assert waiting.result(timeout=5).writes[0].key == "n"


def test_a_hold_of_a_set_bars_what_could_enter_it(board: Board) -> None:
    tx = board.begin("ann")
    tx.query(Predicate(topic="notes", key_from="a", key_to="c"))
    board.hold(tx, 0.3)
    entering, outside = board.begin("ann"), board.begin("ann")
    entering.put("notes", "b", 1, type="note")
    outside.put("notes", "d", 1, type="note")
    waiting = board.submit(entering)
    board.submit(outside).result(timeout=5)
    assert not waiting.done()
    assert waiting.result(timeout=5).writes[0].key == "b"


def test_the_owners_commit_ends_the_hold_even_if_it_fails(board: Board) -> None:
    held = board.hold(lost(board, "n"), 30)
    held.get("notes", "other")
    held.put("notes", "n", 1, type="note")
    put(board, "other", 1)
    with pytest.raises(Conflict):
        board.commit(held)
    put(board, "n", 2)
    assert value(board, "n") == 2


def test_a_commit_that_changes_nothing_ends_the_hold(board: Board) -> None:
    put(board, "n", 1)
    held = board.hold(lost(board, "n"), 30)
    held.get("notes", "n")
    assert board.commit(held).seq == held.snapshot == board.head == 1
    waiting = board.begin("ann")
    waiting.put("notes", "n", 2, type="note")
    assert board.submit(waiting).result(timeout=5).seq == 2
    assert board.verify() == 2


def test_work_that_fails_in_its_turn_ends_it(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "HOLD_SECONDS", 50.0)
    attempts = []

    def work(tx: Transaction, changes: Sequence[ConflictItem]) -> None:
        attempts.append(tx.id)
        tx.get("notes", "n")
        tx.put("notes", "n", "mine", type="note")
        if len(attempts) > ESCALATE_AFTER:
            raise LookupError("failed in its turn")
        put(board, "n", "theirs")

    with pytest.raises(LookupError):
        transact(board, "ann", work, policies={"note": "escalate"})
    waiting = board.begin("bob")
    waiting.put("notes", "n", 2, type="note")
    assert board.submit(waiting).result(timeout=20).seq == ESCALATE_AFTER + 1


def test_a_turn_shows_no_more_than_the_audience_may_read(board: Board) -> None:
    put(board, "secret", 1, Label.trusted("ann", Readers.of("ann")))
    tx = board.begin("bob", audience=Readers.of("bob"))
    assert tx.get("notes", "secret") is None
    held = board.hold(tx, 1)
    assert held.get("notes", "secret") is None and held.query(Predicate(topic="notes")) == []
    assert board.commit(held).seq == held.snapshot


def test_holds_of_the_same_follow_each_other_and_closing_frees_all(location: str) -> None:
    with Board.open(location) as board:
        first = board.hold(lost(board, "n"), 30)
        second: list[Transaction] = []
        thread = threading.Thread(target=lambda: second.append(board.hold(lost(board, "n"), 30)))
        thread.start()
        time.sleep(0.1)
        assert second == []
        first.put("notes", "n", 1, type="note")
        board.commit(first)
        thread.join(5)
        assert second and not thread.is_alive()
        other = board.begin("ann")
        other.put("notes", "n", 3, type="note")
        waiting = board.submit(other)
    assert waiting.result(timeout=5).writes[0].value == 3
