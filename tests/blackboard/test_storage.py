"""The board's file: locking, damage, a full disk, tampering, versions."""

import gc
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import (
    BoardCorrupt,
    BoardFull,
    BoardMissing,
    ChainBroken,
    SchemaTooNew,
    StaleEpoch,
    StorageFailed,
)
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import BoardError

OPEN_ELSEWHERE = """
import sys
from agentsys.blackboard.board import Board
with Board.open_read_only(sys.argv[1]) as board:
    print(board.head, board.get("notes", "a").value)
with Board.open(sys.argv[1]) as board:
    print("epoch", board.epoch)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "board.db"


def note(board: Board, key: str, value: object) -> Transaction:
    tx = board.begin("user:ann")
    tx.put("notes", key, value, type="note")
    return tx


def fill(path: Path, count: int = 3) -> None:
    with Board.open(path) as board:
        for number in range(count):
            board.commit(note(board, f"k{number}", {"number": number}))


def edit(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_board_keeps_everything_when_closed_and_opened(path: Path) -> None:
    fill(path)
    with Board.open(path, durability="normal") as board:
        assert board.head == 3 and board.epoch == 2
        assert [entry.value for entry in board.query(Predicate())] == [{"number": number} for number in range(3)]
        assert board.commit(note(board, "k0", 1)).seq == 4
        assert board.verify() == 4
    assert not path.with_name("board.db-wal").exists()


def test_paths_may_hold_any_character(tmp_path: Path) -> None:
    odd = tmp_path / "new folder" / "a?b#c%20 d.db"
    fill(odd)
    with Board.open_read_only(odd) as board:
        assert board.head == 3


def test_a_second_process_can_read_and_write(path: Path) -> None:
    with Board.open(path) as board:
        board.commit(note(board, "a", 42))
        command = [sys.executable, "-c", OPEN_ELSEWHERE, str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == ["1 42", "epoch 2"]


def test_who_opens_a_file_by_another_name_writes_through_the_same_leader(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with Board.open(link) as board:
        board.commit(note(board, "a", 42))
        command = [sys.executable, "-c", OPEN_ELSEWHERE, str(path)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        assert board.commit(note(board, "a", 43)).seq == 2


def test_a_second_board_of_this_process_is_refused_until_the_first_is_closed(path: Path) -> None:
    with Board.open(path), pytest.raises(BoardBusy, match=f"this process \\({os.getpid()}\\)"):
        Board.open(path)
    Board.open(path).close()


def test_opening_fails_without_keeping_the_lock(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(BoardCorrupt):
            Board.open(path)


def test_read_only_needs_a_board(path: Path) -> None:
    with pytest.raises(BoardMissing, match="no board at"):
        Board.open_read_only(path)
    assert not path.exists()


def test_a_board_stays_where_it_was_opened_whatever_folder_the_process_works_in(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Board.open(path.name) as board, Board.open_read_only(path.name) as reader:
        monkeypatch.chdir("elsewhere")
        board.commit(note(board, "a", 1))
        with ExitStack() as busy:
            for _ in range(2):
                busy.enter_context(reader._reader.connected())
            assert reader.get("notes", "a") is not None
    with Board.open(path) as board:
        assert board.head == 1


def test_a_board_that_is_not_there_leaves_no_file_open(path: Path) -> None:
    fill(path)
    gc.disable()
    try:
        with pytest.raises(BoardMissing, match="other"):
            Board.open_read_only(f"{path}?board=other")
        assert not [one for one in psutil.Process().open_files() if one.path.startswith(str(path))]
    finally:
        gc.enable()


def test_a_folder_is_no_board(tmp_path: Path) -> None:
    with pytest.raises(BoardMissing):
        Board.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BoardMissing):
        Board.open(tmp_path / "file" / "board.db")


@pytest.mark.parametrize("opener", [Board.open, Board.open_read_only])
def test_a_file_that_is_no_database_is_named(path: Path, opener: object) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(BoardCorrupt, match=r"board\.db") as caught:
        opener(path)
    assert "backup" in caught.value.remedy


def test_a_database_that_is_no_board_is_refused_untouched(path: Path) -> None:
    edit(path, "CREATE TABLE other (x)")
    with pytest.raises(BoardCorrupt, match="no board"):
        Board.open(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    fill(path)
    edit(path, "UPDATE board SET schema_version = 99")
    for opener in (Board.open, Board.open_read_only):
        with pytest.raises(SchemaTooNew, match="99"):
            opener(path)


def test_damaged_pages_are_found(path: Path) -> None:
    fill(path, 50)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(BoardCorrupt, match=r"board\.db"), Board.open_read_only(path) as board:
        board.verify()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry_version SET value = '{\"number\":7}' WHERE key = 'k1'",
        "UPDATE entry_version SET value = 'no json' WHERE key = 'k1'",
        "UPDATE entry_version SET label = replace(label, '\"user:ann\"', '\"user:bob\"') WHERE key = 'k1'",
        "UPDATE entry_version SET type = 'other' WHERE key = 'k1'",
        "UPDATE entry_version SET writer = 'user:bob' WHERE key = 'k1'",
        "UPDATE entry_version SET valid_to = 3 WHERE key = 'k1'",
        "DELETE FROM entry_version WHERE key = 'k1'",
        "UPDATE commit_log SET principal = 'user:bob' WHERE seq = 2",
        "UPDATE commit_log SET committed_at = committed_at + 1 WHERE seq = 2",
        "DELETE FROM commit_log WHERE seq = 2",
        "DELETE FROM commit_log WHERE seq = 3",
        "UPDATE board SET head = 2",
    ],
)
def test_verification_catches_a_tampered_row(path: Path, statement: str) -> None:
    fill(path)
    edit(path, statement)
    with Board.open_read_only(path) as board, pytest.raises(ChainBroken, match="AGS-0218"):
        board.verify()


def test_a_stale_writer_is_fenced_off(path: Path) -> None:
    with Board.open(path) as board:
        board.commit(note(board, "a", 1))
        edit(path, "UPDATE board SET leader = leader + 1")
        with pytest.raises(StaleEpoch, match="AGS-0208"):
            board.commit(note(board, "a", 2))
        assert board.get("notes", "a") == board.query(Predicate())[0]


@contextmanager
def full_disk(board: Board, path: Path) -> Iterator[None]:
    """Let the database grow no further, as if the disk were full."""
    writer = board._committer._committer._storage._writer
    pages = writer.exec_driver_sql("PRAGMA page_count").scalar()
    writer.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    writer.rollback()
    yield
    writer.exec_driver_sql("PRAGMA max_page_count=1000000")
    writer.rollback()


@contextmanager
def failing_writes(board: Board, path: Path) -> Iterator[None]:
    """Let every write past the present end of the write-ahead log fail, as a broken disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("trouble", "error"), [(full_disk, BoardFull), (failing_writes, StorageFailed)], ids=["full", "failing"]
)
def test_a_disk_in_trouble_loses_nothing_and_recovers(path: Path, trouble: object, error: type[BoardError]) -> None:
    with Board.open(path) as board:
        for number in range(5):
            board.commit(note(board, f"k{number}", "x" * 1000))
        with trouble(board, path):
            refused = [note(board, "big", "y" * 300_000), note(board, "second", "y" * 300_000)]
            for future in [board.submit(tx) for tx in refused]:
                with pytest.raises(error, match=r"board\.db"):
                    future.result(20)
            assert board.head == 5 and len(board.query(Predicate())) == 5
            assert board.get("notes", "big") is None
        assert [board.commit(tx).seq for tx in refused] == [6, 7]
        assert board.commit(refused[0]).seq == 6
        assert board.verify() == 7
    with Board.open(path) as board:
        assert board.verify() == 7 and len(board.query(Predicate())) == 7


def test_a_small_member_survives_a_batch_that_does_not_fit(path: Path) -> None:
    with Board.open(path) as board:
        for number in range(40):
            board.commit(note(board, "k", "x" * 1000 + str(number)))
        with full_disk(board, path):
            futures = [board.submit(note(board, "big", "y" * 300_000)), board.submit(note(board, "k", 1))]
            with pytest.raises(BoardFull):
                futures[0].result(20)
            assert isinstance(futures[1].exception(20), (BoardFull, type(None)))
        assert board.verify() == board.head


def test_an_old_snapshot_reads_large_and_evicted_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsys.blackboard.recent.CAPACITY", 2)
    with Board.open(path) as board:
        for number in range(4):
            board.commit(note(board, f"k{number}", "v" * 5000 * number))
            board.commit(note(board, "same", number))
        assert [len(board.get("notes", f"k{number}").value) for number in range(4)] == [0, 5000, 10000, 15000]
        assert [board.get("notes", "same", at=2 * (number + 1)).value for number in range(4)] == [0, 1, 2, 3]


def test_a_write_that_failed_after_reaching_the_disk_is_found_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Board.open(path) as board:
        storage = board._committer._committer._storage
        append = storage.append

        def store_then_fail(*arguments: object) -> None:
            monkeypatch.setattr(storage, "append", append)
            append(*arguments)
            raise StorageFailed("The acknowledgement of the disk was lost.")

        monkeypatch.setattr(storage, "append", store_then_fail)
        tx = note(board, "a", 1)
        with pytest.raises(StorageFailed):
            board.commit(tx)
        assert board.head == 1
        assert board.commit(tx).seq == 1
        assert board.commit(note(board, "a", 2)).seq == 2
        assert board.verify() == 2
