"""Several real processes write one board."""

import copyreg
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard import commits, open_file
from agentsys.blackboard.board import Board
from agentsys.blackboard.commit_server import NOBODYS
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import EffectClass, EffectIntent, EffectRefused
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.lock import BoardBusy, BoardLock, Leader
from agentsys.blackboard.open_file import OpenFile
from agentsys.blackboard.places import MAIN
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardClosed, StorageFailed

SCRIPT = Path(__file__).with_name("committer_process.py")
HOLD = """
import sys
from agentsys.blackboard.board import Board
board = Board.open(sys.argv[1])
board.start_effect("e1")
print("started", flush=True)
sys.stdin.read()
"""
CONFLICT = """
import sys
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
board = Board.open(sys.argv[1])
tx = board.begin("peer")
tx.get("t", "k")
tx.put("t", "k", "mine", type="note")
print("read", flush=True)
sys.stdin.readline()
try:
    board.commit(tx)
except Conflict as error:
    print(error.items[0].new.value, flush=True)
board.close()
"""

NAMED = """
import sys
from enum import StrEnum
from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
class Name(StrEnum):
    NOTES = "notes"
    FIRST = "first"
    SECOND = "second"
with Board.open(sys.argv[1]) as board:
    for type_ in (Name.FIRST, Name.SECOND):
        tx = board.begin(Name.FIRST)
        tx.get(Name.NOTES, Name.FIRST)
        tx.query(Predicate(topic=Name.NOTES, equals={"kind": Name.FIRST}))
        tx.put(Name.NOTES, Name.FIRST, Name.FIRST, type=type_)
        print(board.commit(tx).seq, flush=True)
"""
FOLLOWS = """
import sys
from agentsys.blackboard.board import Board
with Board.open(sys.argv[1]) as board:
    print("open", flush=True)
    for line in sys.stdin:
        tx = board.begin("peer")
        tx.put("t", "k", line.strip(), type="note")
        try:
            error = board.submit(tx).exception(20)
        except TimeoutError as late:
            error = late
        print(type(error).__name__, flush=True)
"""
LEADS_HASTILY = """
import sys
from agentsys.blackboard.board import Board
board = Board.open(sys.argv[1], durability="normal")
print("open", flush=True)
sys.stdin.read()
"""
SAYS_MORE = """
import sys
from agentsys.blackboard import commits
from agentsys.blackboard.board import Board
class Later(float):
    pass
Later.__module__, commits.Later = commits.__name__, Later
with Board.open(sys.argv[1]) as board:
    for urgency in (Later(1), 1.0):
        tx = board.begin("peer", urgency=urgency)
        tx.put("t", "k", 1, type="note")
        print(type(board.submit(tx).exception(20)).__name__, flush=True)
"""


class Later(Exception):
    """An error that another version does not know."""


def launch(path: str, name: str, count: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def rest_of(process: "subprocess.Popen[str]") -> list[str]:
    """Return the lines not read yet; ``communicate`` would drop those that ``readline`` had buffered."""
    assert process.stdout is not None
    lines = process.stdout.read().split()
    process.wait(timeout=60)
    process.stdout.close()
    return lines


def python(code: str, path: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def faults(acknowledged: Sequence[int], counter: int, items: Sequence[Entry], certain: bool = True) -> list[str]:
    """Return what is wrong with a log of increments; unless ``certain``, one commit may lack its acknowledgement."""
    found = []
    if len(set(acknowledged)) != len(acknowledged):
        found.append("an increment was acknowledged twice")
    if [item.key for item in items] != [f"{number:06d}" for number in range(1, counter + 1)]:
        found.append("items and counter differ")
    if any(item.version != 1 for item in items):
        found.append("an item was written twice")
    if not set(acknowledged) <= set(range(1, counter + 1)):
        found.append("an acknowledged increment is lost")
    if certain and len(acknowledged) != counter:
        found.append("an increment was made by nobody")
    return found


@pytest.mark.parametrize("processes", [2, 4])
def test_no_update_is_lost_between_processes(location: str, processes: int) -> None:
    team = [launch(location, f"p{number}", 20) for number in range(processes)]
    acknowledged = [int(line) for process in team for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in team] == [0] * processes
    with Board.open_read_only(location) as board:
        counter = board.get("shared", "counter")
        items = [board.get("items", key) for key in keys(board)]
        assert counter is not None and counter.value == 20 * processes
        assert faults(acknowledged, counter.value, [item for item in items if item is not None]) == []
        assert board.verify() == board.head


def keys(board: Board) -> list[str]:
    return sorted(entry.key for commit in board.log() for entry in commit.writes if entry.topic == "items")


def test_a_peer_takes_over_when_the_leader_is_killed(location: str) -> None:
    leader = launch(location, "leader", 100_000)
    heard = [line_of(leader)]
    peers = [launch(location, f"p{number}", 30) for number in range(3)]
    heard += [line_of(peer) for peer in peers]
    leader.kill()
    heard += rest_of(leader)
    for peer in peers:
        heard += rest_of(peer)
    assert [peer.returncode for peer in peers] == [0, 0, 0]
    with Board.open(location) as board:
        counter = board.get("shared", "counter")
        items = [board.get("items", key) for key in keys(board)]
        assert counter is not None
        acknowledged = [int(line) for line in heard]
        assert faults(acknowledged, counter.value, [item for item in items if item is not None], certain=False) == []
        assert counter.value - len(acknowledged) in (0, 1)
        assert board.verify() == board.head


def test_what_is_asked_for_is_answered_though_nobody_can_be_told_who_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(self: BoardLock, leader: Leader) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "team.db"
    leader = python(LEADS_HASTILY, str(path))
    line_of(leader)
    with Board.open(path) as board:
        leader.send_signal(signal.SIGSTOP)
        tx = board.begin("ann")
        tx.put("t", "k", 1, type="note")
        asked = board.submit(tx)
        with monkeypatch.context() as patched:
            patched.setattr(BoardLock, "publish", on_a_full_disk)
            leader.kill()
            rest_of(leader)
            assert isinstance(asked.exception(20), BoardBusy)
        assert board.commit(tx).seq == 1
    assert leader.stdin is not None
    leader.stdin.close()


def test_the_check_would_notice_a_faulty_committer() -> None:
    def item(number: int, version: int = 1) -> Entry:
        return Entry("items", f"{number:06d}", "item", version, "p", Label.trusted("p"), 1, "p", None, (), 0.0, None)

    assert faults([1, 2], 2, [item(1), item(2)]) == []
    assert faults([1, 1], 1, [item(1)]) != []
    assert faults([1, 2, 3], 2, [item(1), item(2)]) != []
    assert faults([1, 2], 2, [item(1), item(2, version=2)]) != []
    assert faults([1, 2], 2, [item(1)]) != []


def test_a_conflict_reaches_the_other_process_as_what_it_is(location: str) -> None:
    with Board.open(location) as board, python(CONFLICT, location) as peer:
        assert line_of(peer) == "read"
        tx = board.begin("leader")
        tx.put("t", "k", "theirs", type="note")
        board.commit(tx)
        assert peer.communicate("go\n", timeout=30)[0].strip() == "theirs"


def test_names_may_be_members_of_an_enumeration_that_the_leader_does_not_have(location: str) -> None:
    with Board.open(location) as board, python(NAMED, location) as peer:
        try:
            said = peer.communicate(timeout=60)[0].split()
        finally:
            peer.kill()
        assert said == ["1", "2"]
        (entry,) = board.query(Predicate(topic="notes"))
        assert (entry.value, entry.type, entry.version) == ("first", "second", 2)


def test_an_effect_of_a_live_process_is_left_alone_and_that_of_a_dead_one_is_taken_up(location: str) -> None:
    with Board.open(location) as board:
        tx = board.begin("a")
        tx.plan_effect(EffectIntent("e1", None, "s", "t", EffectClass.IDEMPOTENT, {}, Label.trusted("a")))
        board.commit(tx)
        with python(HOLD, location) as peer:
            assert line_of(peer) == "started"
            effect = board.effect("e1")
            assert effect is not None and effect.epoch != board.epoch and board.begun_by_the_living(effect)
            with pytest.raises(EffectRefused):
                board.start_effect("e1")
            with pytest.raises(EffectRefused, match="live process"):
                board.finish_effect("e1", "failed")
            peer.kill()
            peer.wait()
            while board.begun_by_the_living(effect):
                # On PostgreSQL, a session lasts until its lease ends.
                time.sleep(0.05)
            assert board.start_effect("e1").epoch == board.epoch


def test_a_closed_board_does_not_say_who_lives(location: str) -> None:
    board = Board.open(location)
    board.close()
    with pytest.raises(BoardClosed):
        board.alive(board.epoch + 1)


def test_readers_learn_of_a_commit_by_themselves(location: str) -> None:
    with Board.open(location) as board, Board.open_read_only(location) as reader:
        tx = board.begin("a")
        tx.put("t", "k", 1, type="note")
        board.commit(tx)
        assert reader.wait_for(1, timeout=30)
        assert reader.get("t", "k") is not None
        assert [commit.seq for commit in reader.commits(limit=5)] == [1]
        assert [entry.version for entry in reader.history("t", "k")] == [1]


def level(board: Board) -> int:
    """Return how the leader, this process, has SQLite wait for the disk: 1 is ``normal``, 2 is ``full``."""
    committer: Any = board.committer()
    found: int = committer._committer._storage._writer.exec_driver_sql("PRAGMA synchronous").scalar()
    return found


def test_commits_are_as_durable_as_the_opening_of_the_file_that_asks_for_most(tmp_path: Path) -> None:
    with Board.open(tmp_path / "board.db", durability="normal") as board:
        assert level(board) == 1
        with python(FOLLOWS, str(tmp_path / "board.db")) as peer:
            assert line_of(peer) == "open" and level(board) == 2
            peer.communicate(timeout=30)
    with (
        Board.open(tmp_path / "board.db", durability="normal") as board,
        Board.open(f"{tmp_path / 'board.db'}?board=hasty", durability="normal"),
    ):
        assert level(board) == 1
        with Board.open(f"{tmp_path / 'board.db'}?board=careful"):
            assert level(board) == 2


def test_a_process_that_takes_over_is_as_durable_as_the_others_ask(tmp_path: Path) -> None:
    path = str(tmp_path / "board.db")
    with python(LEADS_HASTILY, path) as leader:
        assert line_of(leader) == "open"
        with python(FOLLOWS, path) as peer, Board.open(path, durability="normal") as board:
            assert line_of(peer) == "open"
            # While it stands still, another takes over.
            peer.send_signal(signal.SIGSTOP)
            try:
                leader.kill()
                leader.wait()
                tx = board.begin("next")
                tx.put("t", "k", 1, type="note")
                assert board.commit(tx).seq == 1 and level(board) == 1
            finally:
                peer.send_signal(signal.SIGCONT)
            assert peer.communicate("go\n", timeout=30)[0].strip() == "NoneType" and level(board) == 2


def test_a_follower_that_says_what_the_leader_does_not_know_is_told_so(tmp_path: Path) -> None:
    path = str(tmp_path / "board.db")
    with Board.open(path) as board, python(SAYS_MORE, path) as peer:
        try:
            assert peer.communicate(timeout=30)[0].split() == ["StorageFailed", "NoneType"]
        finally:
            peer.kill()
        assert board.head == 1


class Shorter:
    """A request as it is sent by a version that knows fewer of its fields."""

    def __reduce__(self) -> Any:
        rebuilt: Any = copyreg
        return rebuilt._reconstructor, (commits.CommitRequest, object, None), ["tx", "peer"]


def test_a_message_of_another_form_is_answered_and_its_author_served_on(tmp_path: Path) -> None:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        file = OpenFile._all[os.getpid(), path.resolve()]
        assert file._server is not None
        with open_file._connect(file._server.leader) as peer:

            def answer_to(message: Any) -> tuple[int, bool, Any]:
                peer.send(message)
                assert peer.poll(10)
                number, good, value = peer.recv()
                return number, good, value if good else type(value)

            known = (7, MAIN, "epoch", ())
            for other in (known[:3], (*known, "more"), (7, 5, *known[2:]), (7, MAIN, "later", ()), (*known[:3], None)):
                assert answer_to(other) == (7, False, StorageFailed), other
            assert answer_to((7, MAIN, "commit", (Shorter(),))) == (7, False, StorageFailed)
            for other in (None, 5, (), "epoch", [None, *known[1:]], {"number": 7}):
                assert answer_to(other) == (NOBODYS, False, StorageFailed), other
            peer.send_bytes(b"no pickle")
            assert peer.poll(10) and peer.recv()[0] == NOBODYS
            assert answer_to(known)[:2] == (7, True)
        transaction = board.begin("leader")
        transaction.put("t", "k", 1, type="note")
        assert board.submit(transaction).result(10).seq == 1


def test_an_answer_of_another_form_is_told_to_who_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "board.db")
    with Board.open(path), python(FOLLOWS, path) as peer:
        assert line_of(peer) == "open" and peer.stdin is not None
        try:
            with monkeypatch.context() as patch:
                send = Connection.send
                patch.setattr(Connection, "send", lambda self, message: send(self, (*message, "more")))
                print("go", file=peer.stdin, flush=True)
                assert line_of(peer) == "StorageFailed"
            print("on", file=peer.stdin, flush=True)
            assert line_of(peer) == "NoneType"
        finally:
            peer.kill()


def test_a_leader_that_answers_what_the_follower_does_not_know_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Later, "__module__", commits.__name__)
    monkeypatch.setattr(commits, "Later", Later, raising=False)
    path = str(tmp_path / "board.db")
    with Board.open(path) as board, python(FOLLOWS, path) as peer:
        assert line_of(peer) == "open"
        committer: Any = board.committer()
        refused: Future[Commit] = Future()
        refused.set_exception(Later("by a newer version"))
        with monkeypatch.context() as patch:
            patch.setattr(committer._committer, "submit", lambda _: refused)
            assert peer.stdin is not None
            print("go", file=peer.stdin, flush=True)
            try:
                assert line_of(peer) == "StorageFailed"
            finally:
                peer.kill()
