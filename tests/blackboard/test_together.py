"""Commits over several boards of one database: all or none, beside leaders that know nothing of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.postgres.together import BoardsApart, commit_together
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction

TRANSFERS = 25


@pytest.fixture
def other_board(postgres_url: str, postgres_board: str) -> Iterator[str]:
    """The address of a second board in the same database."""
    name = postgres_board.partition("board=")[2].partition("&")[0]
    yield postgres_board.replace(f"board={name}", f"board=u{name}")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS agentsys_u{name} CASCADE")


def put(board: Board, key: str, value: Json) -> Transaction:
    tx = board.begin("user:ann")
    tx.put("accounts", key, value, type="balance")
    return tx


def balance(board: Board, at: int | None = None) -> int:
    entry = board.get("accounts", "a", at=at)
    assert entry is not None and isinstance(entry.value, int)
    return entry.value


def transfer(one: Board, two: Board, amount: int) -> list[Commit]:
    """Move ``amount`` from one board to the other, trying until nobody came between."""
    while True:
        taking, giving = one.begin("user:ann"), two.begin("user:ann")
        have, had = taking.get("accounts", "a"), giving.get("accounts", "a")
        assert have is not None and had is not None
        taking.put("accounts", "a", int(str(have.value)) - amount, type="balance")
        giving.put("accounts", "a", int(str(had.value)) + amount, type="balance")
        try:
            return commit_together((one, taking), (two, giving))
        except Conflict:
            continue


def test_all_boards_take_it_and_their_leaders_go_on(postgres_board: str, other_board: str) -> None:
    with Board.open(postgres_board) as one, Board.open(other_board) as two, Board.open(postgres_board) as follower:
        one.commit(put(one, "before", 1))
        with one.watching(Predicate(topic="accounts")) as changed:
            changed.clear()
            commits = commit_together((one, put(one, "a", 1)), (two, put(two, "a", 2)))
            assert changed.wait(5)
        assert [commit.seq for commit in commits] == [2, 1] == [one.head, two.head]
        assert (balance(one), balance(two)) == (1, 2)
        assert follower.wait_for(2, timeout=5) and balance(follower) == 1
        assert [one.commit(put(one, "after", 1)).seq, two.commit(put(two, "after", 1)).seq] == [3, 2]
        assert follower.commit(put(follower, "a", 3)).seq == 4 and balance(one) == 3
        assert (one.verify(), two.verify()) == (4, 2)


def test_a_conflict_on_one_board_keeps_all_as_they_are(postgres_board: str, other_board: str) -> None:
    with Board.open(postgres_board) as one, Board.open(other_board) as two:
        two.commit(put(two, "a", 1))
        stale = two.begin("user:ann")
        stale.get("accounts", "a")
        stale.put("accounts", "a", 2, type="balance")
        two.commit(put(two, "a", 5))
        with pytest.raises(Conflict):
            commit_together((one, put(one, "a", 1)), (two, stale))
        assert one.head == 0 and balance(two) == 5
        assert one.commit(put(one, "a", 1)).seq == 1 and two.verify() == 2


def test_committing_again_returns_the_same_commits(postgres_board: str, other_board: str) -> None:
    with Board.open(postgres_board) as one, Board.open(other_board) as two:
        parts = (one, put(one, "a", 1)), (two, put(two, "a", 2))
        commits = commit_together(*parts)
        assert [commit.hash for commit in commit_together(*parts)] == [commit.hash for commit in commits]
        assert (one.head, two.head) == (1, 1)


def test_transfers_in_both_directions_beside_other_commits_lose_nothing(postgres_board: str, other_board: str) -> None:
    with Board.open(postgres_board) as one, Board.open(other_board) as two:
        one.commit(put(one, "a", 100))
        two.commit(put(two, "a", 100))

        def alone(board: Board) -> None:
            for number in range(TRANSFERS):
                board.commit(put(board, f"alone {number}", number))

        work = [
            *(threading.Thread(target=alone, args=(board,)) for board in (one, two)),
            threading.Thread(target=lambda: [transfer(one, two, 1) for _ in range(TRANSFERS)]),
            threading.Thread(target=lambda: [transfer(two, one, 2) for _ in range(TRANSFERS)]),
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(120)
            assert not thread.is_alive()
        assert (balance(one), balance(two)) == (100 + TRANSFERS, 100 - TRANSFERS)
        assert (one.verify(), two.verify()) == (1 + 3 * TRANSFERS, 1 + 3 * TRANSFERS)


def test_a_kill_leaves_no_half_of_a_transfer(postgres_board: str, other_board: str, tmp_path: Path) -> None:
    with Board.open(postgres_board) as one, Board.open(other_board) as two:
        one.commit(put(one, "a", 100))
        two.commit(put(two, "a", 100))
        script = tmp_path / "transfers.py"
        script.write_text(
            "import sys\n"
            "from agentsys.blackboard.board import Board\n"
            "from test_together import transfer\n"
            "with Board.open(sys.argv[1]) as one, Board.open(sys.argv[2]) as two:\n"
            "    while True:\n"
            "        transfer(one, two, 1)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        for cycle in range(3):
            process = subprocess.Popen([sys.executable, str(script), postgres_board, other_board], env=environment)
            before = balance(two)
            deadline = time.monotonic() + 60
            while balance(two) < before + 3 and time.monotonic() < deadline:
                time.sleep(0.01 * cycle)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert balance(two) >= before + 3
            assert balance(one) + balance(two) == 200
        assert one.verify() == one.head and two.verify() == two.head


def test_boards_that_no_one_database_holds_are_refused(postgres_board: str, tmp_path: Path) -> None:
    with Board.open(postgres_board) as one, Board.open(tmp_path / "board.db") as file:
        with pytest.raises(BoardsApart, match="AGS-0226"):
            commit_together((one, put(one, "a", 1)), (file, put(file, "a", 1)))
        with pytest.raises(BoardsApart, match="several of the transactions"):
            commit_together((one, put(one, "a", 1)), (one, put(one, "b", 1)))
        assert (one.head, file.head) == (0, 0)
