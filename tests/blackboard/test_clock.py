"""The clock steps by hours, forwards and back: order is by number, and leases run by clocks that nobody sets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.effects import EffectClass, EffectIntent, EffectState
from agentsys.blackboard.labels import Label
from agentsys.blackboard.postgres import lease, queue
from agentsys.blackboard.predicates import Predicate

HOUR = 3600.0
ALL = Predicate(topic="t")
Set = Callable[[float], None]


@pytest.fixture
def step_clock(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Return what sets the wall clock of this process so many seconds off."""
    real = time.time

    def step(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return step


def put(board: Board, key: str, value: object) -> int:
    tx = board.begin("ann")
    tx.put("t", key, value, type="item")
    return board.commit(tx).seq


jumps = st.sampled_from([0.0, HOUR, -HOUR, 26 * HOUR, -26 * HOUR])
programs = st.lists(st.tuples(jumps, st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), min_size=2, max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs)
def test_order_is_by_number_whatever_the_clock_says(step_clock: Set, program: list[tuple[float, str, int]]) -> None:
    expected: dict[int, dict[str, int]] = {0: {}}
    with Board.open(":memory:") as board:
        subscription = board.subscribe("reader", ALL)
        handled: list[int] = []
        for jump, key, value in program:
            step_clock(jump)
            stale = board.begin("bob")
            stale.get("t", key)
            seq = put(board, key, value)
            expected[seq] = {**expected[max(expected)], key: value}
            stale.put("t", key, "lost", type="item")
            with pytest.raises(Conflict):
                board.commit(stale)
            for commit in subscription.poll():
                handled.append(commit.seq)
                tx = board.begin("reader")
                tx.advance(subscription, commit.seq)
                tx.put("seen", str(commit.seq), True, type="seen", label=Label.trusted("reader"))
                board.commit(tx)
        assert handled == sorted(set(expected) - {0}), "each once, in order"
        for at, state in expected.items():
            assert {entry.key: entry.value for entry in board.query(ALL, at=at)} == state
        assert [commit.seq for commit in board.log()] == list(range(1, board.head + 1))
        for key in "abc":
            versions = [entry.version for entry in board.history("t", key)]
            assert versions == list(range(1, len(versions) + 1))
        assert board.verify() == board.head


@pytest.mark.parametrize("jump", [26 * HOUR, -26 * HOUR])
def test_effects_and_turns_do_not_hang_on_the_clock(board: Board, step_clock: Set, jump: float) -> None:
    tx = board.begin("ann")
    tx.plan_effect(EffectIntent("e", "r", "s", "send", EffectClass.IRREVERSIBLE, {}, Label.trusted("ann")))
    board.commit(tx)
    started = board.start_effect("e")
    losing = board.begin("ann")
    losing.put("t", "k", 1, type="item")
    step_clock(jump)
    assert board.begun_by_the_living(started)
    assert board.finish_effect("e", "succeeded", {"value": 1}, Label.trusted("ann")).state is EffectState.SUCCEEDED
    held = board.hold(losing, 30)
    held.put("t", "k", 2, type="item")
    waiting = board.begin("bob")
    waiting.put("t", "k", 3, type="item")
    queued = board.submit(waiting)
    assert not queued.done()
    first = board.commit(held).seq
    assert queued.result(30).seq == first + 1


@pytest.mark.parametrize("jump", [26 * HOUR, -26 * HOUR])
def test_a_lease_of_the_past_holds_over_a_step(board: Board, step_clock: Set, jump: float) -> None:
    for number in range(10):
        put(board, "a", number)
    with board.lease(3, seconds=60):
        step_clock(jump)
        board.compact(Keep())
        assert board.horizon <= 3
        assert [entry.value for entry in board.query(ALL, at=4)] == [3]
    step_clock(0)
    board.compact(Keep())
    assert board.horizon > 3


def test_a_number_of_commits_is_kept_whatever_the_clock_was(board: Board, step_clock: Set) -> None:
    for number in range(5):
        put(board, "a", number)
    step_clock(50 * HOUR)
    put(board, "a", 5)
    step_clock(0)
    for number in range(6, 12):
        put(board, "a", number)
    board.compact(Keep(commits=2))
    assert board.horizon == 10


HOLDS = """
import sys, time
from agentsys.blackboard.board import Board
board = Board.open(sys.argv[1])
tx = board.begin("ann")
tx.put("t", "first", 1, type="item")
board.commit(tx)
print(board.epoch, flush=True)
time.sleep(600)
"""


@pytest.fixture
def leader(location: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that leads, and its opening."""
    command = [sys.executable, "-c", HOLDS, location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


@pytest.mark.parametrize("hours", [2, -2, 50, -50])
def test_who_died_is_dead_also_when_the_clock_was_set_back(
    location: str,
    leader: tuple[subprocess.Popen[str], int],
    step_clock: Set,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
) -> None:
    process, epoch = leader
    process.kill()
    process.wait()
    step_clock(hours * HOUR)
    set_database_clock(monkeypatch, hours * HOUR)
    with Board.open(location) as board:
        assert put(board, "second", 2) == 2
        assert not board.alive(epoch)


def set_database_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the database's clock off, as far as sessions look at it."""
    real: Any = lease._now
    monkeypatch.setattr(lease, "_now", lambda plus_seconds=0.0: real(plus_seconds + seconds))
    stepped = f"clock_timestamp() + interval '{seconds} seconds'"
    monkeypatch.setattr(queue, "_TAKE", queue._TAKE.replace("clock_timestamp()", stepped))


@pytest.mark.parametrize("hours", [2, -2])
def test_a_step_of_the_databases_clock_costs_a_leader_no_commit(
    postgres_board: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    with Board.open(postgres_board) as one, Board.open(postgres_board) as other:
        put(one, "a", 0)
        for number, jump in enumerate((0, hours, 0), 1):
            with monkeypatch.context() as patch:
                set_database_clock(patch, jump * HOUR)
                for board in (one, other):
                    put(board, "a", number)
                # Long enough for a renewal that finds the session ended.
                time.sleep(1.2)
                for board in (one, other):
                    put(board, "b", number)
        assert one.wait_for(13, 10)
        assert [entry.value for entry in one.history("t", "a")] == [0, 1, 1, 2, 2, 3, 3]
        assert one.verify() == 13
