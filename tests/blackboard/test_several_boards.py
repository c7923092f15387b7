"""Several boards in one file: each whole in itself, one process that writes for all of them."""

import errno
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Connection

from agentsys.blackboard.board import Board
from agentsys.blackboard.catalogue import boards_beside
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.copies import TargetExists, back_up, export_board, import_board, restore
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.entries import Json
from agentsys.blackboard.file_writer import FileWriter
from agentsys.blackboard.labels import Label
from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.places import BadAddress, FilePlace
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.sqlite import SqliteStorage
from agentsys.blackboard.storage import (
    BoardClosed,
    BoardCorrupt,
    BoardMissing,
    ChainBroken,
    SchemaTooNew,
    StorageFailed,
)
from agentsys.blackboard.together import commit_together
from agentsys.blackboard.transactions import Transaction

PEER = """
import sys
from agentsys.blackboard.board import Board
with Board.open(sys.argv[1]) as board:
    for number in range(int(sys.argv[2])):
        tx = board.begin("peer")
        tx.put("notes", f"peer {number}", number, type="note")
        board.commit(tx)
        print(board.epoch, flush=True)
"""

LEADER = """
import sys
from agentsys.blackboard.board import Board
board = Board.open(sys.argv[1])
print("leads", flush=True)
sys.stdin.read()
"""


def note(board: Board, key: str, value: Json) -> Transaction:
    tx = board.begin("user:ann")
    tx.put("notes", key, value, type="note")
    return tx


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "team.db"


def quietly(done: int, total: int) -> None:
    """Progress for nobody."""


def fill(path: Path, *names: str) -> None:
    for count, name in enumerate(names, 1):
        with Board.open(f"{path}?board={name}") as board:
            for number in range(count):
                board.commit(note(board, "k", f"{name} {number} {'x' * 5_000}"))


def test_each_board_has_its_own_log_and_state(path: Path) -> None:
    with Board.open(path) as main, Board.open(f"{path}?board=notes") as notes:
        main.commit(note(main, "k", 1))
        for number in range(3):
            notes.commit(note(notes, "k", number))
        assert (main.head, notes.head) == (1, 3)
        assert [entry.value for entry in main.history("notes", "k")] == [1]
        assert notes.get("notes", "k", at=2).value == 1  # type: ignore[union-attr]
        assert notes.subscribe("s", Predicate()).name == "s" and main.cursor("s") is None
        assert (main.verify(), notes.verify()) == (1, 3)
    listed = [(item.name, item.location, item.head) for item in boards_beside(path)]
    assert listed == [("main", str(path), 1), ("notes", f"{path}?board=notes", 3)]
    with Board.open(f"{path}?board=main") as main:
        assert main.head == 1


def test_the_file_of_one_board_from_before_takes_more(path: Path) -> None:
    with Board.open(path) as main:
        main.commit(note(main, "k", 1))
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    fill(path, "notes")
    with closing(sqlite3.connect(path)) as connection:
        after = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    assert [row for row in after if "$" not in row[0]] == before
    with Board.open(path) as main:
        assert main.commit(note(main, "k", 2)).seq == main.verify() == 2


@pytest.mark.parametrize("name", ["", "Notes", "1st", "a-b", "a;b", "x" * 41, "a$b"])
def test_names_that_no_board_can_have_are_refused(path: Path, name: str) -> None:
    with pytest.raises(BadAddress, match="AGS-0222"):
        Board.open(f"{path}?board={name}")
    assert not path.exists()


def test_a_board_that_is_not_there_is_told_with_those_that_are(path: Path) -> None:
    fill(path, "notes", "orders")
    with pytest.raises(BoardMissing, match=r"no board other in .*: notes, orders"):
        Board.open_read_only(f"{path}?board=other")
    with pytest.raises(BoardMissing, match="no board main"):
        Board.open_read_only(path)


def test_a_database_that_is_no_board_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (a)")
    with pytest.raises(BoardCorrupt):
        Board.open(f"{path}?board=notes")


def test_openings_of_all_boards_have_different_numbers_and_show_who_lives(path: Path) -> None:
    with Board.open(path) as main, Board.open(f"{path}?board=notes") as notes:
        first, second = main.epoch, notes.epoch
        tx = notes.begin("user:ann")
        tx.plan_effect(EffectIntent("e", None, "s", "t", EffectClass.IRREVERSIBLE, {}, Label()))
        notes.commit(tx)
        assert notes.begun_by_the_living(notes.start_effect("e"))
        notes.close()
        assert first != second and main.alive(first) and not main.alive(second)
        with Board.open(f"{path}?board=notes") as again:
            assert again.epoch not in (first, second) and main.alive(again.epoch)
            effect = again.effect("e")
            assert effect is not None and not again.begun_by_the_living(effect)


def test_one_board_is_opened_once_and_closes_without_the_others(path: Path) -> None:
    with Board.open(path) as main, Board.open(f"{path}?board=notes") as notes:
        with pytest.raises(BoardBusy, match="AGS-0201"):
            Board.open(f"{path}?board=notes")
        queued = [notes.submit(note(notes, "k", number)) for number in range(20)]
        notes.close()
        assert [future.result(5).seq for future in queued] == list(range(1, 21))
        with pytest.raises(BoardClosed):
            notes.commit(note(main, "k", 1))
        with Board.open(f"{path}?board=notes") as again:
            assert again.head == 20
        assert main.commit(note(main, "k", 1)).seq == 1


def test_a_board_that_nobody_asked_for_since_a_take_over_closes_without_the_others(path: Path) -> None:
    fill(path, "notes")
    command = [sys.executable, "-c", LEADER, str(path)]
    leader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None and leader.stdout.readline()
    with leader, Board.open(path) as main, Board.open(f"{path}?board=notes") as notes:
        leader.kill()
        assert main.commit(note(main, "k", 1)).seq == 1
        notes.close()
        with Board.open(f"{path}?board=notes") as again:
            assert again.head == 1
    fill(path, "notes")


def test_what_cannot_be_sent_to_the_leader_is_told_and_not_waited_for(path: Path) -> None:
    command = [sys.executable, "-c", LEADER, str(path)]
    leader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None and leader.stdout.readline()

    class OfThisFunction:
        def run(self, connection: Connection) -> None:
            """Nothing."""

    with leader:
        board = Board.open(path)
        with pytest.raises(StorageFailed, match="cannot be sent"):
            board.maintain(OfThisFunction())
        assert board.commit(note(board, "k", 1)).seq == 1
        closing_it = threading.Thread(target=board.close, daemon=True)
        closing_it.start()
        closing_it.join(20)
        leader.kill()
        assert not closing_it.is_alive()


def test_a_board_that_cannot_be_opened_leaves_the_others_as_they_are(path: Path) -> None:
    fill(path, "notes")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE notes$board SET schema_version = 99")
    with Board.open(path) as main:
        for _ in range(2):
            with pytest.raises(SchemaTooNew, match="99"):
                Board.open(f"{path}?board=notes")
        assert main.commit(note(main, "k", 1)).seq == 1
    with Board.open(path) as main:
        assert main.head == 1


def test_the_leader_of_one_board_serves_the_others_to_other_processes(path: Path) -> None:
    with Board.open(path) as main:
        command = [sys.executable, "-c", PEER, f"{path}?board=notes", "30"]
        peers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert peers[0].stdout is not None and peers[0].stdout.readline()
        with Board.open(f"{path}?board=notes") as notes:
            main.commit(note(main, "k", 1))
            commit = notes.commit(note(notes, "k", 1))
            assert notes.wait_for(commit.seq, 0)
        # Its closing takes nothing from those who go on.
        epochs = {line for peer in peers for line in peer.communicate(timeout=60)[0].split()}
        assert [peer.returncode for peer in peers] == [0, 0] and len(epochs) == 2
    with Board.open_read_only(f"{path}?board=notes") as notes:
        assert notes.verify() == 61


def test_boards_of_one_file_share_their_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one board is at the disk, what the others have to store gathers, and goes there as one."""
    names = [f"b{number}" for number in range(4)]
    boards = [Board.open(f"{path}?board={name}") for name in names]
    gathered, entered, go_on = [], threading.Event(), threading.Event()
    store = FileWriter._store

    def slowly(writer: FileWriter, works: Any) -> None:
        gathered.append(len(works))
        entered.set()
        assert go_on.wait(10)
        store(writer, works)

    monkeypatch.setattr(FileWriter, "_store", slowly)
    first = boards[0].submit(note(boards[0], "k", 1))
    assert entered.wait(10)
    writer: Any = boards[0]._committer._committer._storage._file  # type: ignore[union-attr]
    rest = [board.submit(note(board, "k", 1)) for board in boards[1:]]
    while len(writer._waiting) < 3:
        threading.Event().wait(0.01)
    go_on.set()
    assert [future.result(10).seq for future in [first, *rest]] == [1, 1, 1, 1]
    assert gathered == [1, 3]
    for board in boards:
        assert board.verify() == 1
        board.close()


def test_what_fails_takes_nothing_along_that_shared_its_transaction(path: Path) -> None:
    with closing(FileWriter(path, "off")) as writer:
        with writer.transaction() as driver:
            driver.execute("CREATE TABLE t (a)")
        outcomes: dict[int, object] = {}

        def insert(number: int) -> None:
            def work(driver: Any) -> None:
                driver.execute("INSERT INTO t VALUES (?)", (number,))
                if number == 1:
                    raise ValueError("planted")

            try:
                writer.write(work)
                outcomes[number] = "stored"
            except ValueError as error:
                outcomes[number] = str(error)

        threads = [threading.Thread(target=insert, args=(number,)) for number in range(3)]
        with writer.turn:
            for thread in threads:
                thread.start()
            while len(writer._waiting) < 3:
                threading.Event().wait(0.01)
        for thread in threads:
            thread.join(10)
        assert outcomes == {0: "stored", 1: "planted", 2: "stored"}
        with writer.transaction() as driver:
            assert sorted(driver.execute("SELECT a FROM t").fetchall()) == [(0,), (2,)]


def test_a_board_is_compacted_without_the_others(path: Path) -> None:
    fill(path, "notes", "orders")
    with Board.open(f"{path}?board=orders") as orders, Board.open(f"{path}?board=notes") as notes:
        orders.compact(Keep())
        assert (orders.horizon, notes.horizon) == (2, 0)
        assert (orders.verify(), notes.verify()) == (3, 1)
        for number in range(2):
            commit_together((orders, note(orders, "k", number)), (notes, note(notes, "k", number)))
        assert (orders.verify(), notes.verify()) == (5, 3)


def test_verification_finds_what_was_altered_on_any_board(path: Path, tmp_path: Path) -> None:
    fill(path, "notes", "orders")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE orders$commit_log SET principal = 'user:eve' WHERE seq = 1")
    with Board.open_read_only(f"{path}?board=notes") as notes:
        assert notes.verify() == 1
    with Board.open_read_only(f"{path}?board=orders") as orders, pytest.raises(ChainBroken, match=r"board=orders.*1"):
        orders.verify()
    # A backup is of the file, and worth nothing where any board in it is broken.
    with pytest.raises(ChainBroken, match="orders"):
        back_up(f"{path}?board=notes", tmp_path / "backup.db", quietly)


def test_a_backup_holds_all_boards_and_openings_go_on_after_those_of_all(path: Path, tmp_path: Path) -> None:
    fill(path, "notes", "orders")
    backup = tmp_path / "backup.db"
    assert back_up(f"{path}?board=orders", backup, quietly).commits == 2
    with Board.open(f"{path}?board=notes") as notes:
        newest = notes.epoch
    restore(backup, f"{path}?board=notes", quietly, replace_existing=True)
    assert [item.name for item in boards_beside(path)] == ["notes", "orders"]
    with Board.open(f"{path}?board=orders") as orders:
        assert orders.epoch > newest and orders.verify() == 2


@pytest.mark.parametrize("target", ["main", "moved"])
def test_an_export_becomes_one_more_board_of_a_file(path: Path, tmp_path: Path, target: str) -> None:
    fill(path, "notes", "orders")
    export = tmp_path / "orders.jsonl"
    exported = export_board(f"{path}?board=orders", export, quietly)
    place = f"{path}?board={target}"
    assert import_board(export, place, quietly, head_hash=exported.head_hash).commits == 2
    with pytest.raises(TargetExists):
        import_board(export, f"{path}?board=notes", quietly)
    with Board.open(place) as moved, Board.open(f"{path}?board=notes") as notes:
        assert (moved.verify(), notes.verify()) == (2, 1)
        assert moved.commit(note(moved, "k", "more")).writes[0].version == 3
    import_board(export, tmp_path / "new.db?board=alone", quietly)
    assert [item.name for item in boards_beside(tmp_path / "new.db")] == ["alone"]


def test_two_storages_of_one_file_share_its_writer(path: Path) -> None:
    with closing(FileWriter(path, "off")) as writer:
        one, two = SqliteStorage(writer), SqliteStorage(writer, "notes")
        assert one.epoch != two.epoch
        assert str(FilePlace(path, "notes")) in two.name
        one.close()
        assert two.begin_epoch() == two.epoch + 1
        two.close()


def test_a_leader_without_descriptors_does_not_spin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def accept(listener: Listener) -> Any:
        tried.append(1)
        raise OSError(errno.EMFILE, "planted")

    monkeypatch.setattr(Listener, "accept", accept)
    with Board.open(path):
        time.sleep(0.5)
        assert 1 <= len(tried) <= 20


def test_a_file_whose_socket_was_removed_is_let_go_of(path: Path) -> None:
    fill(path, "notes")
    with Board.open(path) as main:
        path.with_name(f"{path.name}.sock").unlink()
        main.commit(note(main, "k", 1))
    with Board.open(path) as main:
        assert main.head == 1


def test_a_board_whose_closing_failed_can_be_opened_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = Board.open(path)
    close = FileWriter.close

    def fail(writer: FileWriter) -> None:
        close(writer)
        raise StorageFailed("planted")

    with monkeypatch.context() as patch:
        patch.setattr(FileWriter, "close", fail)
        with pytest.raises(StorageFailed, match="planted"):
            main.close()
    opening = threading.Thread(target=fill, args=(path, "notes"), daemon=True)
    opening.start()
    opening.join(20)
    assert not opening.is_alive()


def test_who_cannot_serve_a_file_lets_go_of_it(path: Path) -> None:
    socket = path.with_name(f"{path.name}.sock")
    socket.mkdir()
    with pytest.raises(BoardBusy, match="commit socket"):
        Board.open(path)
    assert not [one for one in psutil.Process().open_files() if one.path.startswith(str(path))]
    assert not [thread for thread in threading.enumerate() if thread.name == "agentsys-file"]
    socket.rmdir()
    fill(path, "notes")
