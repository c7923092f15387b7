"""Leaders, followers and the server itself are killed or frozen: nothing acknowledged is lost or done twice."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.postgres.queue import SubmissionQueue
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardUnreachable, StaleEpoch

COUNTS = """
import sys
from agentsys.blackboard.board import Board
location, name = sys.argv[1:]
board = Board.open(location)
while True:
    tx = board.begin(name)
    counter = tx.get("counters", name)
    number = 1 + (counter.value if counter is not None else 0)
    tx.put("counters", name, number, type="count")
    tx.put(f"items/{name}", f"{number:06d}", number, type="item")
    board.commit(tx)
    print(number, flush=True)
"""
LEADS = """
import sys
from agentsys.blackboard.board import Board
board = Board.open(sys.argv[1])
print("open", flush=True)
for line in sys.stdin:
    tx = board.begin("frozen")
    tx.put("t", line.strip(), 1, type="note")
    print(board.commit(tx).seq, flush=True)
board.close()
"""


class Writer:
    """A process that increments a counter of its own, and what it was acknowledged so far."""

    def __init__(self, location: str, name: str) -> None:
        self.name = name
        command = [sys.executable, "-c", COUNTS, location, name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.acknowledged: list[int] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_for_more(self, count: int = 1) -> None:
        """Wait until ``count`` more increments were acknowledged."""
        wanted, deadline = len(self.acknowledged) + count, time.monotonic() + 60
        while len(self.acknowledged) < wanted:
            assert self.process.poll() is None, "the writer ended"
            assert time.monotonic() < deadline, "the writer makes no progress"
            time.sleep(0.005)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.acknowledged.extend(int(line) for line in lines)


def faults(board: Board, name: str, acknowledged: Sequence[int]) -> list[str]:
    """Return what is wrong with a dead writer's increments; its last one may lack the acknowledgement."""
    counter = board.get("counters", name)
    items = board.query(Predicate(topic=f"items/{name}"))
    total = 0 if counter is None else counter.value
    found = []
    if [item.key for item in items] != [f"{number:06d}" for number in range(1, total + 1)]:
        found.append("items and counter differ")
    if any(item.version != 1 for item in items):
        found.append("an item was written twice")
    if list(acknowledged) != list(range(1, len(acknowledged) + 1)):
        found.append("acknowledgements are out of order")
    if total - len(acknowledged) not in (0, 1):
        found.append(f"{len(acknowledged)} increments were acknowledged, {total} were made")
    return found


@pytest.fixture
def writers(postgres_board: str) -> Iterator[list[Writer]]:
    """Three processes that write one board; the first leads."""
    Board.open(postgres_board).close()
    team = []
    for number in range(3):
        team.append(Writer(postgres_board, f"w{number}"))
        team[-1].wait_for_more()
    yield team
    for writer in team:
        writer.kill()


@pytest.mark.parametrize("victim", [0, -1], ids=["leader", "follower"])
def test_processes_die_again_and_again(postgres_board: str, writers: list[Writer], victim: int) -> None:
    dead: list[Writer] = []
    cycles = 3
    for cycle in range(cycles):
        dead.append(writers.pop(victim))
        dead[-1].kill()
        for writer in writers:
            writer.wait_for_more()
        writers.append(Writer(postgres_board, f"n{cycle}"))
        writers[-1].wait_for_more()
    for writer in writers:
        writer.kill()
    with Board.open(postgres_board) as board:
        assert [faults(board, writer.name, writer.acknowledged) for writer in dead + writers] == [[]] * (cycles + 3)
        head = board.head
        # What a writer had submitted when it died may be committed even now.
        assert board.verify() >= head


def test_the_server_dies_again_and_again(own_server: Any) -> None:
    location = f"{own_server.url}&board=team&lease=1"
    pauses = random.Random(7)
    with ExitStack() as stack:
        Board.open(location).close()
        team = [Writer(location, f"w{number}") for number in range(2)]
        for writer in team:
            stack.callback(writer.kill)
        reader = stack.enter_context(Board.open(location))
        for _ in range(5):
            for writer in team:
                writer.wait_for_more(3)
            time.sleep(pauses.uniform(0, 0.1))
            own_server.kill()
            own_server.start()
            # A read waits for the server rather than fail.
            assert reader.get("counters", "w0") is not None
        for writer in team:
            writer.wait_for_more(3)
            writer.kill()
    with Board.open(location) as board:
        assert [faults(board, writer.name, writer.acknowledged) for writer in team] == [[], []]
        head = board.head
        # What a writer had submitted when it died may be committed even now.
        assert board.verify() >= head


def test_the_check_would_notice_a_loss(postgres_board: str) -> None:
    with Board.open(postgres_board) as board:
        tx = board.begin("a")
        tx.put("counters", "a", 1, type="count")
        tx.put("items/a", "000001", 1, type="item")
        board.commit(tx)
        assert faults(board, "a", [1]) == [] == faults(board, "a", [])
        assert faults(board, "a", [1, 2]) == ["2 increments were acknowledged, 1 were made"]
        assert faults(board, "a", [1, 1]) != []
        assert faults(board, "b", [1]) != []
        tx = board.begin("a")
        tx.put("items/a", "000001", 1, type="item")
        board.commit(tx)
        assert faults(board, "a", [1]) == ["an item was written twice"]


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_frozen_leader_commits_nothing_under_its_old_epoch(postgres_board: str) -> None:
    command = [sys.executable, "-c", LEADS, postgres_board]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as frozen:
        assert frozen.stdin is not None and line_of(frozen) == "open"
        frozen.stdin.write("before\n")
        frozen.stdin.flush()
        assert line_of(frozen) == "1"
        with Board.open(postgres_board) as board:
            assert not board._committer.knows_head()
            os.kill(frozen.pid, signal.SIGSTOP)
            try:
                # This waits until the lease of the frozen one has ended, and leads.
                tx = board.begin("next")
                tx.put("t", "during", 1, type="note")
                assert board.commit(tx).seq == 2
                assert board._committer.knows_head()
                frozen.stdin.write("after\n")
                frozen.stdin.flush()
            finally:
                os.kill(frozen.pid, signal.SIGCONT)
            assert line_of(frozen) == "3"
            assert board.wait_for(3, 20)
            # The commit of the one that woke came through the new leader.
            assert board._committer.knows_head()
            assert [commit.principal for commit in board.log()] == ["frozen", "next", "frozen"]
            assert board.verify() == 3
        frozen.stdin.close()


def test_a_storage_that_does_not_lead_any_more_is_refused(postgres_board: str) -> None:
    with Board.open(postgres_board) as first, Board.open(postgres_board) as second:
        committer = first._committer._committer
        second._committer._database.writers.dispose()
        with second._committer._database.writers.begin() as connection:
            connection.exec_driver_sql(f"UPDATE board SET leader = {second.epoch}")
        tx = first.begin("a")
        tx.put("t", "k", 1, type="note")
        with pytest.raises(StaleEpoch, match="AGS-0208"):
            committer.submit(tx.seal(first.epoch)).result(20)
        # Through the board, the same transaction reaches the leader, once.
        assert first.commit(tx).seq == 1 == first.commit(tx).seq
        assert second.verify() == 1


@pytest.mark.parametrize("lost", ["take", "answer"])
def test_a_follower_is_answered_though_its_request_or_the_answer_was_lost(postgres_board: str, lost: str) -> None:
    with Board.open(postgres_board) as leading, Board.open(postgres_board) as following:
        asked = leading._committer._queue
        said = getattr(asked, lost)
        failures: list[int] = []

        def failing(*arguments: Any) -> Any:
            # What the database did it did; only that it did is not heard of.
            done = said(*arguments) if lost == "take" else None
            if not failures and (done or arguments[0]):
                failures.append(1)
                raise BoardUnreachable("the connection broke")
            return said(*arguments) if lost == "answer" else done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asked, lost, failing)
            tx = following.begin("a")
            tx.put("t", "k", 1, type="note")
            assert following.submit(tx).result(20).seq == 1
        assert failures == [1] and leading.verify() == 1


def test_a_session_begun_anew_does_not_vouch_for_what_the_old_one_knew(
    postgres_url: str, postgres_board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Board.open(postgres_board) as board:
        committer = board._committer
        revive, known = committer._lease.revive, []

        def revived() -> None:
            revive()
            known.append(committer.knows_head())

        monkeypatch.setattr(committer._lease, "revive", revived)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            # As after the process was frozen for longer than its lease, in which others may have led and committed.
            connection.execute(f"DELETE FROM {Address.parse(postgres_board).schema}.session")
        deadline = time.monotonic() + 10
        while not known and time.monotonic() < deadline:
            time.sleep(0.01)
        assert known == [False]
        tx = board.begin("a")
        tx.put("t", "k", 1, type="note")
        assert board.commit(tx).seq == 1 and committer.knows_head()


def test_an_opening_that_fails_when_it_has_begun_to_lead_leaves_no_thread(
    postgres_board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise BoardUnreachable("the connection broke")

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(SubmissionQueue, "take", failing)
        with pytest.raises(BoardUnreachable):
            Board.open(postgres_board)
    assert set(threading.enumerate()) <= before
    with Board.open(postgres_board) as board:
        assert board.verify() == 0
