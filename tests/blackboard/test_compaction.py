"""Compaction: what goes, what stays, what still proves the board, and who is told that the past is gone."""

import math
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from agentsys.blackboard import compaction, upkeep, verification
from agentsys.blackboard.board import Board, InvalidSnapshot
from agentsys.blackboard.compaction import CompactionRefused, Keep, Pin, plan
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.effects import EffectClass, EffectIntent, EffectState
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import COMMITS, ENTRIES
from agentsys.blackboard.storage import ChainBroken, HistoryCompacted
from agentsys.blackboard.upkeep import DropRange
from agentsys.blackboard.verification import COMPACTIONS

ALL = Predicate()


def put(board: Board, key: str, value: object, run: str | None = None) -> int:
    tx = board.begin("user:ann", run=run)
    tx.put("notes", key, value, type="note")
    return board.commit(tx).seq


def fill(board: Board, commits: int = 20) -> None:
    for number in range(commits):
        put(board, f"k{number % 4}", number)


def count(board: Board, column: Any) -> int:
    return int(board.select(select(func.count(column)))[0][0])


def notes(board: Board, at: int | None = None) -> dict[str, object]:
    return {entry.key: entry.value for entry in board.query(Predicate(topic="notes"), at=at)}


def test_superseded_versions_and_old_commits_go_and_the_state_stays(board: Board) -> None:
    fill(board)
    before, kept = notes(board), notes(board, 15)
    done = board.compact(Keep(commits=5))
    assert (done.begin, done.horizon, done.dropped) == (0, 15, {"commits": 15, "versions": 11, "effect steps": 0})
    assert board.horizon == 15 and notes(board) == before and notes(board, 15) == kept
    assert (
        [commit.seq for commit in board.log()] == [*range(16, 22)] == [commit.seq for commit in board.commits()][::-1]
    )
    assert [entry.version for entry in board.history("notes", "k0")] == [4, 5]
    assert count(board, COMMITS.c.seq) == 6 and count(board, ENTRIES.c.version) == 10
    assert board.verify() == 21
    assert board.get(COMPACTIONS, "15") is not None


def test_readers_of_what_is_gone_are_told(board: Board) -> None:
    fill(board)
    tx, young, old = board.begin("user:ann"), board.begin("user:ann", at=15), board.begin("user:ann", at=3)
    board.compact(Keep(commits=5))
    for read in (
        lambda: board.get("notes", "k0", at=14),
        lambda: board.get("none", "none", at=14),
        lambda: board.query(ALL, at=0),
        lambda: board.query(Predicate(topic="none"), at=14),
        lambda: board.log(after=14),
        lambda: old.query(ALL),
        lambda: old.get("notes", "none"),
    ):
        with pytest.raises(HistoryCompacted, match=r"AGS-0260.*before commit 15"):
            read()
    with pytest.raises(InvalidSnapshot):
        board.query(ALL, at=99)
    assert len(young.query(ALL)) == len(tx.query(Predicate(topic="notes"))) == 4
    assert board.log(after=15, limit=1)[0].seq == 16


def test_a_transaction_whose_predicate_can_no_longer_be_judged_is_refused(board: Board) -> None:
    fill(board, 4)
    tx = board.begin("user:ann")
    assert len(tx.query(Predicate(topic="other"))) == 0
    tx.put("notes", "new", 1, type="note")
    blind = board.begin("user:ann")
    blind.put("notes", "blind", 1, type="note")
    # A match comes and goes: of it nothing is left, but the two transactions cannot be put in an order.
    for value in ({"n": 1}, {"n": 2}):
        one = board.begin("user:ann")
        one.put("other", "k", value, type="note")
        board.commit(one)
    board.compact(Keep())
    with pytest.raises(HistoryCompacted):
        board.commit(tx)
    assert board.commit(blind).seq == board.head


def test_a_commit_that_may_have_been_forgotten_is_not_made_again(board: Board) -> None:
    tx = board.begin("user:ann")
    tx.put("notes", "once", 1, type="note")
    assert board.commit(tx).seq == 1
    assert board.commit(tx).seq == 1
    fill(board, 4)
    board.compact(Keep())
    with pytest.raises(HistoryCompacted):
        board.commit(tx)
    assert [entry.version for entry in board.history("notes", "once")] == [1]


def test_what_is_needed_stays(board: Board) -> None:
    fill(board, 6)
    intent = EffectIntent("e", "run 1", "s", "pay", EffectClass.IRREVERSIBLE, {}, Label())
    tx = board.begin("user:ann", run="run 1")
    tx.plan_effect(intent)
    board.commit(tx)
    board.start_effect("e")
    fill(board, 6)
    board.subscribe("reader", ALL, after=9)
    with board.lease(8):
        made = plan(board, Keep(), [Pin("run 2", 7)])
        assert [(pin.what.split()[0], pin.seq) for pin in made.pins] == [
            ("unsettled", 6), ("run", 7), ("lease", 8), ("subscription", 9),
        ]  # fmt: skip
        assert made.horizon == 6 and board.horizon == 0
        board.finish_effect("e", "succeeded")
        assert board.compact(Keep()).horizon == 8
    subscription = board.subscribe("reader", ALL)
    assert [commit.seq for commit in subscription.poll(2)] == [10, 11]
    assert board.compact(Keep()).horizon == 9
    assert board.verify() == board.head


def test_settled_effects_keep_their_last_step(board: Board) -> None:
    tx = board.begin("user:ann")
    tx.plan_effect(EffectIntent("e", None, "s", "pay", EffectClass.IRREVERSIBLE, {}, Label()))
    board.commit(tx)
    board.start_effect("e")
    board.finish_effect("e", "succeeded", {"paid": 1})
    before = board.effect("e")
    assert board.compact(Keep()).dropped == {"commits": 3, "versions": 0, "effect steps": 2}
    assert board.effect("e") == before and before.state is EffectState.SUCCEEDED
    assert board.verify() == 4


def test_age_keeps_what_was_current_since(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(board, 4)
    assert board.compact(Keep(seconds=3600)).horizon == 0
    time.sleep(0.01)
    put(board, "k0", "late")
    before, after = (commit.at for commit in board.log(after=3))
    monkeypatch.setattr(compaction.time, "time", lambda: after + 100)
    # At that moment the fourth commit was the newest.
    assert board.compact(Keep(seconds=100 + (after - before) / 2)).horizon == 4


def test_compacting_again_and_again(board: Board) -> None:
    for _ in range(4):
        fill(board, 5)
        horizon = board.compact(Keep(commits=2)).horizon
        assert board.horizon == horizon
        assert board.verify() == board.head
    assert board.compact(Keep(commits=10_000)).horizon == horizon
    assert len(notes(board)) == 4


def test_an_expired_lease_holds_nothing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(board, 4)
    lease = board.lease(1, seconds=1000)
    assert board.compact(Keep()).horizon == 1
    # As after the death of its process: nobody renews it.
    later = time.time() + 2000
    monkeypatch.setattr(compaction.time, "time", lambda: later)
    monkeypatch.setattr(upkeep, "now", lambda connection: later)
    assert board.compact(Keep()).horizon == 5
    monkeypatch.undo()
    with pytest.raises(HistoryCompacted):
        board.lease(2)
    lease.close()
    lease.close()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, math.nan])
def test_a_lease_that_would_be_renewed_without_end_is_refused(board: Board, seconds: float) -> None:
    with pytest.raises(ValueError, match=str(seconds)):
        board.lease(0, seconds=seconds)


def test_a_lease_is_renewed_while_its_process_lives(board: Board) -> None:
    fill(board, 4)
    with board.lease(1, seconds=0.3):
        time.sleep(0.8)
        assert board.compact(Keep()).horizon == 1


def test_a_lease_for_longer_than_leases_last_is_renewed_too(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(board, 4)
    monkeypatch.setattr(upkeep, "LONGEST_LEASE_SECONDS", 0.3)
    with board.lease(1, seconds=3600):
        time.sleep(0.8)
        assert board.compact(Keep()).horizon == 1


def test_a_lease_that_its_board_does_not_outlive_keeps_no_thread(location: str) -> None:
    with Board.open(location) as board:
        fill(board, 4)
        lease = board.lease(1, seconds=0.3)
    lease._thread.join(5)
    assert not lease._thread.is_alive()
    lease.close()


LEASING = """
import sys
from agentsys.blackboard.board import Board
board = Board.open(sys.argv[1])
lease = board.lease(1, seconds=3600)
print("leased", flush=True)
sys.stdin.read()
"""


def test_a_lease_outlives_its_process_and_holds_back_others(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Board.open(location) as board:
        fill(board, 4)
        holder = subprocess.Popen(
            [sys.executable, "-c", LEASING, location], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None and holder.stdout.readline() == b"leased\n"
        then = notes(board, at=1)
        holder.kill()
        holder.communicate()
        assert board.compact(Keep()).horizon == 1 and notes(board, at=1) == then
    with Board.open(location) as board:
        assert board.compact(Keep()).horizon == 1 and notes(board, at=1) == then
        later = upkeep.LONGEST_LEASE_SECONDS + time.time()
        monkeypatch.setattr(upkeep, "now", lambda connection: later)
        assert board.compact(Keep()).horizon > 1 and board.verify() == board.head


def test_a_need_that_comes_up_meanwhile_refuses_the_compaction(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(board, 4)
    with board.lease(2):
        monkeypatch.setattr(compaction, "_pins", lambda board: [])
        with pytest.raises(CompactionRefused, match="AGS-0262"):
            board.compact(Keep())
    assert board.horizon == 0 and len(board.log(after=0)) == 5 and board.verify() == 5


@pytest.mark.parametrize("dies_after", [1, 2, 3, 4])
def test_a_compaction_that_dies_leaves_a_right_board_which_the_next_one_finishes(
    board: Board, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    fill(board, 12)
    steps = 0

    def maintain(step: object) -> Any:
        nonlocal steps
        if steps == dies_after:
            raise KeyboardInterrupt
        steps += 1
        return Board.maintain(board, step)

    monkeypatch.setattr(compaction, "FIRST_SLICE", 3)
    monkeypatch.setattr(compaction, "LEAST_ROWS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(board, "maintain", maintain)
        with pytest.raises(KeyboardInterrupt):
            board.compact(Keep())
    assert board.verify() == 13 and len(notes(board)) == 4
    assert board.horizon == (12 if dies_after > 1 else 0)
    board.compact(Keep())
    assert board.verify() == board.head and len(notes(board)) == 4
    assert count(board, COMMITS.c.seq) == board.head - board.horizon


def test_others_commit_and_read_while_a_board_is_compacted(board: Board) -> None:
    fill(board, 200)
    ended = threading.Event()
    faults: list[BaseException] = []

    def work(number: int) -> None:
        done = 0
        try:
            while not ended.is_set() or done < 20:
                tx = board.begin("user:ann")
                entry = tx.get("counters", f"{number}")
                assert (0 if entry is None else entry.value) == done
                tx.put("counters", f"{number}", done + 1, type="note")
                board.commit(tx)
                done += 1
                with_head = board.query(Predicate(topic="counters"), at=board.head)
                assert any(found.key == f"{number}" and found.value >= done for found in with_head)
                # Else more may come while a compaction goes on than it drops, and the next takes longer.
                time.sleep(0.005)
        except (HistoryCompacted, Conflict):
            pass
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        board.compact(Keep(commits=20))
        assert board.verify() > 0
    ended.set()
    for thread in threads:
        thread.join()
    assert faults == [] and board.verify() == board.head


def test_a_slow_database_drops_no_less_at_a_time(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices became one commit each where their statements alone took longer than a slice should."""
    fill(board, 600)
    run, slices = DropRange.run, []

    def slow(step: DropRange, connection: Connection) -> tuple[dict[str, int], float]:
        dropped, _ = run(step, connection)
        slices.append(sum(dropped.values()))
        return dropped, 4 * compaction.SLICE_SECONDS

    monkeypatch.setattr(DropRange, "run", slow)
    board.compact(Keep())
    assert sum(slices) > 1_100 and len(slices) < 14


def test_slices_follow_what_they_take() -> None:
    assert compaction._next_size(64, compaction.SLICE_SECONDS, rows_a_commit=1_000) == 64
    assert compaction._next_size(64, 8 * compaction.SLICE_SECONDS, rows_a_commit=1_000) == 32
    assert compaction._next_size(1, 8 * compaction.SLICE_SECONDS, rows_a_commit=1_000) == 1
    assert compaction._next_size(64, 0.0, rows_a_commit=1_000) == 128
    assert compaction._next_size(64, 8 * compaction.SLICE_SECONDS, rows_a_commit=2) == compaction.LEAST_ROWS / 2


def test_a_verification_that_a_compaction_overtakes_begins_anew(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(board, 4)
    check, overtaken = verification._check_payloads, []

    def check_late(reader: verification.LogReader) -> None:
        if not overtaken:
            fill(board, 8)
            overtaken.append(board.compact(Keep(commits=2)))
        check(reader)

    monkeypatch.setattr(verification, "_check_payloads", check_late)
    assert board.verify() == board.head and board.horizon == overtaken[0].horizon == 10


def test_a_compaction_that_another_overtakes_ends_what_is_left(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(board)
    record, overtaking = compaction._record, []

    def record_late(upkept: compaction.Compactable, horizon: int) -> None:
        if not overtaking:
            overtaking.append(horizon)
            assert board.compact(Keep(commits=2)).horizon == 18
        record(upkept, horizon)

    monkeypatch.setattr(compaction, "_record", record_late)
    board.compact(Keep(commits=5))
    assert overtaking == [15] and board.horizon == 18 and board.verify() == board.head


ALTERATIONS = {
    "a survivor's value": "UPDATE entry_version SET value = '7' WHERE topic = 'notes' AND key = 'stays'",
    "a survivor's label": "UPDATE entry_version SET label = replace(label, 'user:ann', 'user:bob') WHERE key = 'stays'",
    "a survivor's writer": "UPDATE entry_version SET writer = 'user:bob' WHERE key = 'stays'",
    "a survivor's version": "UPDATE entry_version SET version = 2 WHERE key = 'stays'",
    "a survivor gone": "DELETE FROM entry_version WHERE key = 'stays'",
    "a survivor's end": "UPDATE entry_version SET valid_to = 21 WHERE key = 'stays'",
    "an effect's outcome": "UPDATE effect_event SET result = '7'",
    "an effect's intent": "UPDATE effect SET arguments = '{\"a\":1}'",
    "an effect gone": "DELETE FROM effect_event",
    "the record's digest": 'UPDATE entry_version SET value = replace(value, \'"state":"\', \'"state":"0\') '
    "WHERE topic = 'board/compactions'",
    "the record's hash": 'UPDATE entry_version SET value = replace(value, \'"hash":"\', \'"hash":"0\') '
    "WHERE topic = 'board/compactions'",
    "the record gone": "DELETE FROM entry_version WHERE topic = 'board/compactions'",
    "the horizon back": "UPDATE board SET horizon = 0",
    "the horizon forth": "UPDATE board SET horizon = horizon + 1",
    "the first commit": "DELETE FROM commit_log WHERE seq = (SELECT min(seq) FROM commit_log)",
    "a later commit": "UPDATE commit_log SET principal = 'user:bob' WHERE seq = (SELECT max(seq) FROM commit_log)",
}


@pytest.mark.parametrize("alteration", ALTERATIONS.values(), ids=ALTERATIONS)
def test_verification_finds_what_was_altered_after_a_compaction(tmp_path: Path, alteration: str) -> None:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        put(board, "stays", 0)
        tx = board.begin("user:ann")
        tx.plan_effect(EffectIntent("e", None, "s", "pay", EffectClass.IRREVERSIBLE, {}, Label()))
        board.commit(tx)
        fill(board, 10)
        board.compact(Keep(commits=4))
        put(board, "k1", "later")
        assert board.verify() == board.head
    with sqlite3.connect(path) as connection:
        assert connection.execute(alteration).rowcount > 0
    connection.close()
    with Board.open_read_only(path) as board, pytest.raises(ChainBroken, match="AGS-0218"):
        board.verify()


def test_a_record_of_the_past_it_tells_of_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        fill(board, 4)
        tx = board.begin("user:eve")
        tx.put(COMPACTIONS, "5", {"hash": "0" * 64, "state": "0" * 64}, type="compaction")
        board.commit(tx)
        board.compact(Keep())
        assert board.horizon == 5 and board.verify() == 6


def compact_elsewhere(location: str) -> None:
    with Board.open(location) as board:
        board.compact(Keep(commits=3))


def test_a_process_that_does_not_lead_compacts_too(tmp_path: Path) -> None:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        fill(board, 12)
        process = multiprocessing.get_context("spawn").Process(target=compact_elsewhere, args=(str(path),))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert board.horizon == 9 and board.verify() == 13
        tx = board.begin("user:ann", at=8)
        tx._read.predicates[ALL] = None
        tx.put("notes", "k", 1, type="note")
        with pytest.raises(HistoryCompacted):
            board.commit(tx)
