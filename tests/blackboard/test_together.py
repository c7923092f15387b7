"""Commits over several boards of one database: all or none, beside committers that know nothing of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.catalogue import boards_beside
from agentsys.blackboard.commits import Commit, Isolation
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry, Json, Key
from agentsys.blackboard.joint import BoardsApart, PartMissing
from agentsys.blackboard.postgres import together as database_together
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardFull, BoardUnreachable, HistoryCompacted
from agentsys.blackboard.together import commit_together
from agentsys.blackboard.transactions import Transaction

TRANSFERS = 25


@pytest.fixture(params=["sqlite", "postgres"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where two boards of one database can be created."""
    if request.param == "sqlite":
        yield str(tmp_path / "board.db"), f"{tmp_path / 'board.db'}?board=other"
        return
    address: str = request.getfixturevalue("postgres_board")
    name = address.partition("board=")[2].partition("&")[0]
    yield address, address.replace(f"board={name}", f"board=u{name}")
    with psycopg.connect(request.getfixturevalue("postgres_url"), autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS agentsys_u{name} CASCADE")


@pytest.fixture
def boards(places: tuple[str, str]) -> Iterator[tuple[Board, Board]]:
    with Board.open(places[0]) as one, Board.open(places[1]) as two:
        yield one, two


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


def test_all_boards_take_it_and_their_committers_go_on(boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.commit(put(one, "before", 1))
    with one.watching(Predicate(topic="accounts")) as changed:
        changed.clear()
        commits = commit_together((one, put(one, "a", 1)), (two, put(two, "a", 2)))
        assert changed.wait(5)
    assert [commit.seq for commit in commits] == [2, 1] == [one.head, two.head]
    assert (balance(one), balance(two)) == (1, 2)
    assert [one.commit(put(one, "after", 1)).seq, two.commit(put(two, "after", 1)).seq] == [3, 2]
    assert (one.verify(), two.verify()) == (3, 2)


def test_what_was_read_of_it_holds_at_the_next_commit(boards: tuple[Board, Board]) -> None:
    one, two = boards
    one.commit(put(one, "a", 1))
    commit_together((one, put(one, "a", 2)), (two, put(two, "a", 2)))
    reading = one.begin("user:ann")
    entry = reading.get("accounts", "a")
    assert entry is not None and entry.value == 2
    reading.put("accounts", "a", 3, type="balance")
    assert one.commit(reading).seq == 3
    assert balance(one) == 3 and one.verify() == 3


def test_a_read_is_not_of_before_it_while_the_next_commit_is_made(
    boards: tuple[Board, Board], storage_of: Callable[[Board], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = boards
    one.commit(put(one, "a", 1))
    commit_together((one, put(one, "a", 2)), (two, put(two, "a", 2)))
    recent = storage_of(one)._recent
    get, during = recent.get, [put(one, "other", 1)]

    def meanwhile(address: Key) -> Entry | None:
        found: Entry | None = get(address)
        if during:
            assert one.commit(during.pop()).seq == 3
        return found

    monkeypatch.setattr(recent, "get", meanwhile)
    assert balance(one, at=2) == 2
    assert not during


def test_a_subscription_moves_over_it_at_the_next_commit(boards: tuple[Board, Board]) -> None:
    one, two = boards
    subscription = one.subscribe("reader", Predicate(topic="accounts"))
    commit_together((one, put(one, "a", 1)), (two, put(two, "a", 1)))
    (commit,) = subscription.poll()
    tx = one.begin("reader")
    tx.advance(subscription, commit.seq)
    assert one.commit(tx).seq == 2
    assert subscription.poll() == []


@pytest.mark.parametrize("places", ["postgres"], indirect=True)
def test_a_leader_that_cannot_read_what_was_added_looks_again(
    boards: tuple[Board, Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = boards
    commit_together((one, put(one, "a", 1)), (two, put(two, "a", 2)))
    storage = one._committer._committer._storage
    lost = [BoardUnreachable("the connection broke")]
    read = storage.commits

    def commits(*asked: Any, **also: Any) -> list[Commit]:
        if lost:
            raise lost.pop()
        return read(*asked, **also)

    monkeypatch.setattr(storage, "commits", commits)
    assert one.commit(put(one, "a", 3)).seq == 2
    assert not lost and one.verify() == 2


def test_those_who_follow_learn_of_it(places: tuple[str, str]) -> None:
    code = (
        "import sys\n"
        "from agentsys.blackboard.board import Board\n"
        "from agentsys.blackboard.together import commit_together\n"
        "from test_together import balance, put\n"
        "with Board.open(sys.argv[1]) as one, Board.open(sys.argv[2]) as two:\n"
        "    assert one.wait_for(2, timeout=20) and balance(one) == 1\n"
        "    commit_together((one, put(one, 'a', 10)), (two, put(two, 'a', 20)))\n"
        "    assert one.commit(put(one, 'a', 11)).seq == 4\n"
    )
    with Board.open(places[0]) as one, Board.open(places[1]) as two:
        one.commit(put(one, "before", 1))
        follower = script(code, *places)
        commit_together((one, put(one, "a", 1)), (two, put(two, "a", 2)))
        assert one.wait_for(4, timeout=20)
        assert follower.wait(20) == 0
        assert (balance(one), balance(two)) == (11, 20)
        assert one.commit(put(one, "a", 12)).seq == 5
        assert (one.verify(), two.verify()) == (5, 2)


@pytest.mark.parametrize("places", ["postgres"], indirect=True)
def test_a_leader_learns_of_it_though_the_news_was_lost(postgres_url: str, places: tuple[str, str]) -> None:
    with Board.open(places[0]) as leading, Board.open(places[0]) as one, Board.open(places[1]) as two:
        signals = leading._committer._signals
        heard = signals._heard
        signals._heard = lambda signal: None
        commit_together((one, put(one, "a", 1)), (two, put(two, "a", 2)))
        time.sleep(0.5)
        assert leading.head == 0, "the news was lost"
        signals._heard = heard
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            listening = f"LISTEN {signals._channels[1]}"
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s", (listening,))
        assert leading.wait_for(1, 10) and leading.head == 1


@pytest.mark.parametrize("places", ["postgres"], indirect=True)
def test_it_is_as_durable_as_the_board_that_asks_for_most(
    places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[str] = []
    locked = database_together._locked

    def looked(connection: Any, place: Any) -> Any:
        levels.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar_one())
        return locked(connection, place)

    monkeypatch.setattr(database_together, "_locked", looked)
    with Board.open(places[0], durability="normal") as one, Board.open(places[1]) as two:
        commit_together((one, put(one, "a", 1)), (two, put(two, "a", 2)))
        commit_together((two, put(two, "b", 1)), (one, put(one, "b", 2)))
    assert set(levels) == {"on"}


def test_a_board_that_is_closed_while_one_waits_for_its_turn_takes_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "board.db"
    with Board.open(place) as one, Board.open(f"{place}?board=other") as two, ThreadPoolExecutor(1) as pool:
        committer: Any = one.committer()
        writer = committer._committer._storage._file
        begin, waits = writer.transaction, threading.Event()
        monkeypatch.setattr(writer, "transaction", lambda: (waits.set(), begin())[1])
        with writer.turn:
            parts = (one, put(one, "a", 1)), (two, put(two, "a", 2))
            committing = pool.submit(commit_together, *parts)
            assert waits.wait(10)
            two.close()
        assert [commit.seq for commit in committing.result(20)] == [1, 1]
        with Board.open(f"{place}?board=other") as again:
            assert balance(again) == 2 and again.verify() == 1


def test_a_full_disk_is_told_as_one_and_leaves_all_as_they_are(tmp_path: Path) -> None:
    with Board.open(tmp_path / "board.db") as one, Board.open(f"{tmp_path / 'board.db'}?board=other") as two:
        parts = (one, put(one, "a", "x" * 300_000)), (two, put(two, "a", "y" * 300_000))
        committer: Any = one.committer()
        writer = committer._committer._storage._writer
        pages = writer.exec_driver_sql("PRAGMA page_count").scalar()
        writer.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(BoardFull, match=r"board\.db"):
            commit_together(*parts)
        writer.exec_driver_sql("PRAGMA max_page_count=1000000")
        assert (one.head, two.head) == (0, 0)
        assert [commit.seq for commit in commit_together(*parts)] == [1, 1]
        assert (one.verify(), two.verify()) == (1, 1)


def test_a_conflict_on_one_board_keeps_all_as_they_are(boards: tuple[Board, Board]) -> None:
    one, two = boards
    two.commit(put(two, "a", 1))
    stale = two.begin("user:ann")
    stale.get("accounts", "a")
    stale.put("accounts", "a", 2, type="balance")
    two.commit(put(two, "a", 5))
    with pytest.raises(Conflict):
        commit_together((one, put(one, "a", 1)), (two, stale))
    assert one.head == 0 and balance(two) == 5
    assert one.commit(put(one, "a", 1)).seq == 1 and two.verify() == 2


def test_committing_again_returns_the_same_commits(boards: tuple[Board, Board]) -> None:
    one, two = boards
    reading = two.begin("user:ann")
    reading.get("accounts", "a")
    parts = (one, put(one, "a", 1)), (two, reading)
    commits = commit_together(*parts)
    two.commit(put(two, "a", 2))
    # What it read does not hold any more, but did when it was committed.
    assert [commit.hash for commit in commit_together(*parts)] == [commit.hash for commit in commits]
    assert (one.head, two.head) == (1, 1)


def test_a_part_that_is_missing_on_one_board_is_told(boards: tuple[Board, Board]) -> None:
    one, two = boards
    parts = (one, put(one, "a", 1)), (two, put(two, "a", 2))
    one.commit(parts[0][1])
    parts[1][1].seal(two.epoch)
    with pytest.raises(PartMissing, match="AGS-0227"):
        commit_together(*parts)
    assert (one.head, two.head) == (1, 0)


def test_of_a_part_that_one_board_has_compacted_nothing_is_told_but_that(boards: tuple[Board, Board]) -> None:
    one, two = boards
    parts = (one, put(one, "a", 1)), (two, put(two, "a", 2))
    commit_together(*parts)
    one.compact(Keep())
    with pytest.raises(HistoryCompacted):
        commit_together(*parts)
    assert two.head == 1


def doctors(boards: tuple[Board, Board], isolation: Isolation) -> bool:
    """Two on call, each on a board of their own; each leaves if the other stays. Return whether both left."""
    one, two = boards
    commit_together((one, put(one, "a", 1)), (two, put(two, "a", 1)))
    leaving = []
    for own, other in (boards, boards[::-1]):
        mine, theirs = (board.begin("user:ann", isolation=isolation) for board in (own, other))
        there = theirs.get("accounts", "a")
        assert there is not None and there.value == 1
        mine.put("accounts", "a", 0, type="balance")
        leaving.append(((own, mine), (other, theirs)))
    commit_together(*leaving[0])
    try:
        commit_together(*leaving[1])
    except Conflict:
        return False
    return True


def test_write_skew_across_boards_is_refused_and_snapshots_show_it(boards: tuple[Board, Board]) -> None:
    assert not doctors(boards, "serializable")
    assert balance(boards[0]) + balance(boards[1]) == 1
    assert doctors(boards, "snapshot")


def test_phantoms_across_boards_are_refused(boards: tuple[Board, Board]) -> None:
    one, two = boards
    counting = two.begin("user:ann")
    assert counting.query(Predicate(topic="accounts")) == []
    two.commit(put(two, "new", 1))
    with pytest.raises(Conflict):
        commit_together((one, put(one, "count", 0)), (two, counting))
    assert one.head == 0


def fractured(boards: tuple[Board, Board], together: bool) -> bool:
    """Return whether somebody who reads both boards sees a half of a commit over both, and is not told."""
    one, two = boards
    commit_together((one, put(one, "a", 0)), (two, put(two, "a", 0)))
    reading = one.begin("user:ann")
    before = reading.get("accounts", "a")
    commit_together((one, put(one, "a", 1)), (two, put(two, "a", 1)))
    other = two.begin("user:ann")
    after = other.get("accounts", "a")
    assert before is not None and after is not None and (before.value, after.value) == (0, 1)
    if not together:
        one.commit(reading)
        two.commit(other)
        return True
    try:
        commit_together((one, reading), (two, other))
    except Conflict:
        return False
    return True


def test_reads_of_both_boards_are_of_one_moment_if_they_are_committed_together(boards: tuple[Board, Board]) -> None:
    assert fractured(boards, together=False)
    assert not fractured(boards, together=True)


def test_transfers_in_both_directions_beside_other_commits_lose_nothing(boards: tuple[Board, Board]) -> None:
    one, two = boards
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


def test_the_boards_of_a_database_are_listed(boards: tuple[Board, Board], places: tuple[str, str]) -> None:
    commit_together(*((board, put(board, "a", 1)) for board in boards))
    # A server that is shared may hold boards of others.
    listed = {item.name: item for item in boards_beside(places[0])}
    for place in places:
        item = listed[place.partition("board=")[2].partition("&")[0] or "main"]
        assert item.head == 1
        with Board.open_read_only(item.location) as board:
            assert balance(board) == 1


def total_of(one: Board, two: Board) -> int:
    """Return both balances of one moment: a leader may yet commit what a follower sent before it was killed."""
    while True:
        head, total = one.head, balance(one) + balance(two)
        if one.head == head:
            return total


TRANSFERRING = """
import sys
from agentsys.blackboard.board import Board
from test_together import transfer
with Board.open(sys.argv[1]) as one, Board.open(sys.argv[2]) as two:
    while True:
        transfer(one, two, 1)
"""


def script(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)


@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_kill_leaves_no_half_of_a_transfer(places: tuple[str, str], victim: str) -> None:
    with Board.open(places[0]) as one, Board.open(places[1]) as two:
        one.commit(put(one, "a", 100))
        two.commit(put(two, "a", 100))
        if victim == "leader":
            one.close()
            two.close()
        for cycle in range(3):
            process = script(TRANSFERRING, *places)
            with Board.open_read_only(places[0]) as first, Board.open_read_only(places[1]) as second:
                before = balance(second)
                deadline = time.monotonic() + 60
                while balance(second) < before + 3 and time.monotonic() < deadline:
                    time.sleep(0.01 * cycle)
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert balance(second) >= before + 3
                assert total_of(first, second) == 200
                assert first.verify() <= first.head and second.verify() <= second.head


def test_a_follower_whose_leader_is_killed_finishes_its_transfers(tmp_path: Path) -> None:
    places = str(tmp_path / "board.db"), f"{tmp_path / 'board.db'}?board=other"
    with Board.open(places[0]) as one, Board.open(places[1]) as two:
        one.commit(put(one, "a", 100))
        two.commit(put(two, "a", 100))
    leader = script(TRANSFERRING, *places)
    with Board.open_read_only(places[1]) as reader:
        assert reader.wait_for(4, timeout=60)
    with Board.open(places[0]) as one, Board.open(places[1]) as two:
        killer = threading.Timer(0.2, leader.kill)
        killer.start()
        commits = [transfer(one, two, 1) for _ in range(TRANSFERS)]
        killer.join()
        leader.wait()
        commits += [transfer(one, two, 1) for _ in range(3)]
        assert len({commit.tx_id for pair in commits for commit in pair}) == 2 * len(commits)
        assert balance(one) + balance(two) == 200
        assert (one.verify(), two.verify()) == (one.head, two.head)
        assert one.head == two.head == 1 + (balance(two) - 100)


def test_boards_that_no_one_database_holds_are_refused(postgres_board: str, tmp_path: Path) -> None:
    with (
        Board.open(postgres_board) as one,
        Board.open(tmp_path / "board.db") as file,
        Board.open(tmp_path / "else.db?board=b") as other,
        Board.open(":memory:") as vanishing,
    ):
        for board in (one, other, vanishing):
            with pytest.raises(BoardsApart, match="AGS-0226"):
                commit_together((board, put(board, "a", 1)), (file, put(file, "a", 1)))
        for board in (one, file):
            with pytest.raises(BoardsApart, match="several of the transactions"):
                commit_together((board, put(board, "a", 1)), (board, put(board, "b", 1)))
        assert (one.head, file.head, other.head, vanishing.head) == (0, 0, 0, 0)
        assert commit_together() == []
