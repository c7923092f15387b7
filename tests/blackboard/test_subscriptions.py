"""Durable cursors: at-least-once delivery, exactly-once processing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentsys.blackboard.board import Board, InvalidSnapshot, ReadOnlyBoard
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.conflicts import Conflict, CursorConflict
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardClosed
from agentsys.blackboard.subscriptions import SubscriptionMismatch
from agentsys.blackboard.transactions import InvalidCursorMove

TASKS = Predicate(topic="tasks", type="task")


def post(board: Board, key: str, *, type: str = "task", topic: str = "tasks") -> int:
    tx = board.begin("poster")
    tx.put(topic, key, {"key": key}, type=type)
    return board.commit(tx).seq


def test_only_matching_commits_are_delivered_in_order(board: Board) -> None:
    post(board, "before")
    subscription = board.subscribe("worker", TASKS)
    post(board, "b", topic="other")
    post(board, "c")
    post(board, "d", type="other")
    assert [commit.seq for commit in subscription.poll()] == [1, 3]
    assert [commit.seq for commit in subscription.poll(limit=1)] == [1]
    later = board.subscribe("late", TASKS, after=board.head)
    assert later.poll() == []


def test_none_begins_past_the_end_of_the_log_and_passes_over_what_comes(board: Board) -> None:
    post(board, "a")
    for after in (2, 2**63, -1):
        with pytest.raises(InvalidSnapshot, match=f"not {after}"):
            board.subscribe("worker", TASKS, after=after)
    assert board.cursor("worker") is None


def test_a_deletion_is_delivered_to_who_watches_the_entry(board: Board) -> None:
    post(board, "a")
    exact = board.subscribe("exact", Predicate(topic="tasks", equals={"key": "a"}), after=1)
    tx = board.begin("poster")
    tx.delete("tasks", "a")
    board.commit(tx)
    (commit,) = exact.poll()
    assert commit.writes[0].deleted


def test_matching_looks_past_pages_of_near_misses(board: Board) -> None:
    tx = board.begin("poster")
    tx.put("tasks", "wanted", {"n": -1}, type="task")
    for number in range(450):
        other = board.begin("poster")
        other.put("tasks", "busy", {"n": number}, type="task")
        board.commit(other)
    board.commit(tx)
    subscription = board.subscribe("rare", Predicate(topic="tasks", equals={"n": -1}))
    assert [commit.seq for commit in subscription.poll()] == [451]


def test_the_cursor_moves_only_with_the_consumers_commit(location: str) -> None:
    with Board.open(location) as board:
        subscription = board.subscribe("worker", TASKS)
        post(board, "a")
        (commit,) = subscription.poll()
        abandoned = board.begin("worker")
        abandoned.advance(subscription, commit.seq)
        assert subscription.position == 0
    with Board.open(location) as board:
        subscription = board.subscribe("worker", TASKS)
        (commit,) = subscription.poll()
        tx = board.begin("worker")
        tx.put("results", "a", 1, type="result")
        tx.advance(subscription, commit.seq)
        done = board.commit(tx)
        assert (done.cursors[0].from_seq, done.cursors[0].to_seq) == (0, 1)
        assert subscription.position == 1
    with Board.open(location) as board:
        assert board.subscribe("worker", TASKS).poll() == []
        assert board.verify() == 2


def test_two_consumers_of_one_subscription_never_both_process(board: Board) -> None:
    post(board, "a")
    consumers = [board.subscribe("worker", TASKS) for _ in range(2)]
    polled = [consumer.poll()[0] for consumer in consumers]
    first, second = board.begin("one"), board.begin("two")
    first.advance(consumers[0], polled[0].seq)
    board.commit(first)
    second.put("results", "twice", 1, type="result")
    second.advance(consumers[1], polled[1].seq)
    with pytest.raises(Conflict) as caught:
        board.commit(second)
    assert caught.value.items == (CursorConflict("worker", 0, 1),)
    assert board.get("results", "twice") is None


def test_every_task_is_processed_once_by_competing_threads(board: Board) -> None:
    for number in range(30):
        post(board, f"{number}")

    def work(name: str) -> None:
        subscription = board.subscribe("worker", TASKS)
        while commits := subscription.poll(limit=3):
            tx = board.begin(name)
            for commit in commits:
                count = tx.get("counts", commit.writes[0].key)
                tx.put("counts", commit.writes[0].key, (count.value if count else 0) + 1, type="count")
            tx.advance(subscription, commits[-1].seq)
            try:
                board.commit(tx)
            except Conflict:
                continue

    workers = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counts = board.query(Predicate(topic="counts"))
    assert [entry.value for entry in counts] == [1] * 30


def test_impossible_moves_are_refused(board: Board) -> None:
    post(board, "a")
    subscription = board.subscribe("worker", TASKS)
    with pytest.raises(InvalidCursorMove, match="before it was polled"):
        board.begin("worker").advance(subscription, 1)
    subscription.poll()
    with pytest.raises(InvalidCursorMove, match="cannot go back"):
        board.begin("worker").advance(subscription, -1)
    tx = board.begin("worker")
    tx.advance(subscription, 2)
    with pytest.raises(InvalidCursorMove, match="cannot pass"):
        board.commit(tx)


def test_a_name_stands_for_one_predicate(board: Board) -> None:
    board.subscribe("worker", TASKS)
    with pytest.raises(SubscriptionMismatch, match="AGS-0215"):
        board.subscribe("worker", Predicate(topic="other"))


def test_wait_returns_when_something_matches_and_not_before(board: Board) -> None:
    subscription = board.subscribe("worker", TASKS)
    post(board, "a", topic="other")
    assert not subscription.wait(0.01)
    woken: list[bool] = []
    waiter = threading.Thread(target=lambda: woken.append(subscription.wait(30)))
    waiter.start()
    post(board, "b", topic="other")
    post(board, "c")
    waiter.join(30)
    assert woken == [True] and subscription.wait(0)


def test_closing_the_board_ends_a_wait() -> None:
    board = Board.open(":memory:")
    woken = threading.Thread(target=board.wait_for, args=(1,))
    woken.start()
    board.close()
    woken.join(30)
    assert not woken.is_alive()


def test_a_read_only_board_can_follow_but_not_subscribe(location: str) -> None:
    with Board.open(location) as board, Board.open_read_only(location) as follower:
        with pytest.raises(ReadOnlyBoard, match="AGS-0206"):
            follower.subscribe("worker", TASKS)
        assert not follower.wait_for(1, 0.01)
        post(board, "a")
        assert follower.wait_for(1, 30) and follower.head == 1
        assert [commit.seq for commit in follower.log()] == [1]


def test_a_waiting_subscription_is_woken_only_by_what_may_concern_it(tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        mine, prefix, anything = Predicate(topic="mine"), Predicate(topic_prefix="mi"), Predicate(type="note")
        with board.watching(mine) as one, board.watching(prefix) as two, board.watching(anything) as three:
            for topic, type_, woken in [
                ("other", "task", [False, False, False]),
                ("mild", "task", [False, True, False]),
                ("mine", "note", [True, True, True]),
            ]:
                transaction = board.begin("writer")
                transaction.put(topic, "key", 1, type=type_)
                board.commit(transaction)
                assert [one.is_set(), two.is_set(), three.is_set()] == woken
                for signal in (one, two, three):
                    signal.clear()


def test_a_waiting_subscription_ends_with_the_board(tmp_path):
    board = Board.open(tmp_path / "board.db")
    subscription = board.subscribe("worker", TASKS)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(subscription.wait)
        time.sleep(0.05)
        board.close()
        with pytest.raises(BoardClosed):
            waiting.result(10)


def test_an_ended_subscription_is_gone_for_who_still_uses_it(board: Board) -> None:
    post(board, "a")
    subscription = board.subscribe("worker", TASKS)
    board.subscribe("other", Predicate(topic="other"))
    assert [one.name for one in board.subscriptions()] == ["other", "worker"]
    (commit,) = subscription.poll()
    assert board.unsubscribe("worker")
    assert not board.unsubscribe("worker")
    assert [one.name for one in board.subscriptions()] == ["other"]
    late = board.begin("worker")
    late.put("done", "a", 1, type="done")
    late.advance(subscription, commit.seq)
    with pytest.raises(Conflict):
        board.commit(late)
    with pytest.raises(SubscriptionMismatch, match="does not exist"):
        subscription.poll()
    assert board.get("done", "a") is None
    assert board.subscribe("worker", Predicate(topic="other")).position == 0


def test_what_an_ended_subscription_had_not_handled_is_compacted(board: Board) -> None:
    post(board, "a")
    board.subscribe("forgotten", TASKS, after=0)
    for _ in range(5):
        post(board, "a")
    assert board.compact(Keep()).horizon == 0
    board.unsubscribe("forgotten")
    assert board.compact(Keep()).horizon == 6
    assert board.verify() == board.head
