"""A board's file gives back what a compaction freed; whatever comes in between, nothing of the board is lost."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.shrinking import NoFileToShrink, ShrinkRefused, stored_size

Usage = namedtuple("Usage", ["total", "used", "free"])
SHRINKING = """
import sys
from agentsys.blackboard.board import Board
with Board.open(sys.argv[1]) as board:
    print("open", flush=True)
    while True:
        board.shrink()
"""


def write(board: Board, count: int) -> None:
    for number in range(count):
        tx = board.begin("user:ann")
        tx.put("notes", "k", f"{number} {'x' * 100_000}", type="note")
        board.commit(tx)


@pytest.fixture
def compacted(tmp_path: Path) -> Path:
    """A file of two boards with much in it that holds nothing."""
    path = tmp_path / "team.db"
    for place in (str(path), f"{path}?board=notes"):
        with Board.open(place) as board:
            write(board, 40)
            board.compact(Keep())
    return path


def test_the_file_gives_its_free_space_back_and_the_boards_stay(compacted: Path) -> None:
    free = stored_size(compacted).free
    assert free > 3_000_000
    with Board.open(compacted) as board, Board.open(f"{compacted}?board=notes") as notes:
        before, after = board.shrink()
        assert after.free == 0 and before.taken - after.taken >= free
        assert (board.verify(), notes.verify()) == (41, 41)
        write(notes, 1)
    assert compacted.stat().st_size < 1_000_000
    with Board.open(f"{compacted}?board=notes") as notes:
        assert notes.verify() == 42


def test_others_commit_and_read_while_it_shrinks(compacted: Path) -> None:
    with Board.open(compacted) as board:
        stop, failures = threading.Event(), []

        def work(read: bool) -> None:
            try:
                while not stop.is_set():
                    if read:
                        assert len(board.query(Predicate(topic="notes"))) == 1
                    else:
                        write(board, 1)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(read,)) for read in (True, False, False)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            board.shrink()
        stop.set()
        for thread in threads:
            thread.join(30)
        assert failures == [] and board.verify() == board.head


def test_a_process_that_does_not_lead_shrinks_too(compacted: Path) -> None:
    code = "import sys\nfrom agentsys.blackboard.board import Board\nBoard.open(sys.argv[1]).shrink()\n"
    with Board.open(compacted) as board:
        subprocess.run([sys.executable, "-c", code, f"{compacted}?board=notes"], check=True, timeout=60)
        assert stored_size(compacted).free == 0 and board.verify() == 41


@pytest.mark.parametrize("apart", [True, False], ids=["two disks", "one disk"])
def test_a_disk_without_room_is_told_before_anything_is_done(
    compacted: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    size = stored_size(compacted)
    live = size.taken - size.free
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1, 1, live - 1 if apart else 2 * live - 1))
    monkeypatch.setattr("agentsys.blackboard.shrinking._device", lambda folder: str(folder) if apart else 0)
    with Board.open(compacted) as board:
        with pytest.raises(ShrinkRefused, match=r"AGS-0263.*MiB in"):
            board.shrink()
        assert stored_size(compacted).free == size.free
        write(board, 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1, 1, 3 * live))
        assert board.shrink()[1].free == 0 and board.verify() == 42


def test_a_long_reader_is_told_of_and_what_went_is_gone_once_it_has_ended(compacted: Path) -> None:
    with Board.open(compacted) as board:
        with closing(sqlite3.connect(f"{compacted.as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT head FROM board").fetchone()
            write(board, 1)
            with pytest.raises(ShrinkRefused, match=r"AGS-0263.*goes on reading"):
                board.shrink()
        assert board.shrink()[1].taken < 1_000_000 and board.verify() == 42


def test_a_kill_leaves_the_boards_as_they_were(compacted: Path) -> None:
    for cycle in range(6):
        process = subprocess.Popen([sys.executable, "-c", SHRINKING, str(compacted)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(0.01 * cycle)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for place in (str(compacted), f"{compacted}?board=notes"):
            with Board.open(place) as board:
                assert board.verify() == 41


def test_a_board_without_a_file_is_refused(postgres_board: str) -> None:
    for place in (":memory:", postgres_board):
        with Board.open(place) as board, pytest.raises(NoFileToShrink, match="AGS-0264"):
            board.shrink()
