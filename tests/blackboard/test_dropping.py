"""Boards dropped for good on both databases: nothing is left of them, and nobody loses one that is in use."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import psycopg
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.copies import back_up, restore
from agentsys.blackboard.dropping import drop_board
from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.postgres import dropping
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.storage import BoardForbidden, BoardMissing

HOLDER = """
import sys
from agentsys.blackboard.board import Board
with Board.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def write(location: str | Path, value: str = "said") -> str:
    """Commit twice; return the hash of the second commit."""
    with Board.open(location) as board:
        for number in range(2):
            tx = board.begin("ann")
            tx.put("t", f"k{number}", value, type="item")
            commit = board.commit(tx)
    return commit.hash


def test_a_dropped_board_is_gone_and_may_be_made_anew(location: str) -> None:
    newest = write(location)
    state = drop_board(location).state
    assert (state.head, state.head_hash) == (2, newest)
    with pytest.raises(BoardMissing):
        Board.open_read_only(location)
    with pytest.raises(BoardMissing):
        drop_board(location)
    with Board.open(location) as board:
        assert (board.head, board.log(), board.epoch > 0) == (0, [], True)


def test_a_file_goes_with_its_only_board(tmp_path: Path) -> None:
    write(tmp_path / "team.db")
    # A reader keeps the log from being folded into the file.
    with Board.open_read_only(tmp_path / "team.db") as reader:
        assert reader.head == 2
        drop_board(tmp_path / "team.db")
    assert [path.name for path in tmp_path.iterdir()] == ["team.db.lock"]


def test_of_a_board_dropped_by_a_link_nothing_is_left(tmp_path: Path) -> None:
    path, link = tmp_path / "team.db", tmp_path / "link.db"
    link.symlink_to(path)
    write(link)
    drop_board(link)
    assert not path.exists() and not [*tmp_path.glob("*-wal")]
    with pytest.raises(BoardMissing):
        Board.open_read_only(link)


def test_nothing_comes_to_be_where_no_board_is(tmp_path: Path) -> None:
    with pytest.raises(BoardMissing):
        drop_board(tmp_path / "team.db")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dropped", ["", "?board=notes"])
def test_boards_beside_it_stay_and_nothing_of_it_does(tmp_path: Path, dropped: str) -> None:
    path = tmp_path / "team.db"
    write(path, "main" * 50)
    write(f"{path}?board=notes", "note" * 50)
    kept = "?board=notes" if not dropped else ""
    gone, held = (b"note", b"main") if dropped else (b"main", b"note")
    with Board.open_read_only(f"{path}{kept}") as before:
        log = before.log()
    assert drop_board(f"{path}{dropped}").kept_space is None
    content = path.read_bytes()
    assert gone * 50 not in content and held * 50 in content
    with Board.open(f"{path}{kept}") as board:
        assert (board.verify(), board.log()) == (2, log)


def test_where_the_disk_is_too_full_to_shrink_the_file_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "team.db"
    write(path)
    write(f"{path}?board=notes")
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        told = drop_board(f"{path}?board=notes").kept_space
    assert told is not None and "shrinking needs" in told
    with pytest.raises(BoardMissing):
        Board.open_read_only(f"{path}?board=notes")


def test_a_board_that_this_process_writes_is_not_dropped(location: str) -> None:
    write(location)
    with Board.open(location) as board:
        with pytest.raises(BoardBusy):
            drop_board(location)
        assert board.verify() == 2
    drop_board(location)


def test_a_board_that_another_process_writes_is_not_dropped(location: str) -> None:
    write(location)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, location], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        with pytest.raises(BoardBusy):
            drop_board(location)
        holder.communicate()
    drop_board(location)


def test_a_board_whose_leader_has_just_died_is_in_use_by_who_will_lead(tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    write(path)
    backup = tmp_path / "backup.db"
    back_up(path, backup, lambda done, total: None)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None and leader.stdout.readline() == "open\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None and follower.stdout.readline() == "open\n"
            # It cannot take over as long as it stands still.
            follower.send_signal(signal.SIGSTOP)
            leader.kill()
            leader.wait()
            try:
                with pytest.raises(BoardBusy):
                    drop_board(path)
                with pytest.raises(BoardBusy):
                    restore(backup, path, lambda done, total: None, replace_existing=True)
            finally:
                follower.send_signal(signal.SIGCONT)
            follower.communicate()
    drop_board(path)


def test_in_a_file_a_board_in_use_keeps_those_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    write(f"{path}?board=notes")
    with Board.open(path), pytest.raises(BoardBusy):
        drop_board(f"{path}?board=notes")


def test_one_that_is_being_read_for_long_is_not_waited_for(
    postgres_url: str, postgres_board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(postgres_board)
    monkeypatch.setattr(dropping, "LOCK_SECONDS", 1)
    with psycopg.connect(postgres_url) as reader:
        reader.execute(f"SELECT * FROM {Address.parse(postgres_board).schema}.entry_version")
        with pytest.raises(BoardBusy, match="lock timeout"):
            drop_board(postgres_board)
    drop_board(postgres_board)


def test_who_has_no_rights_is_told_so(postgres_url: str, postgres_board: str) -> None:
    write(postgres_board)
    schema = Address.parse(postgres_board).schema
    role = f"stranger_{schema}"
    stranger = f"{postgres_board}&options={quote(f'-c role={role}')}"
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role}")
        try:
            for opened in (Board.open_read_only, Board.open, drop_board):
                with pytest.raises(BoardForbidden, match="may not use the schema"):
                    opened(stranger)
            owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
            with pytest.raises(BoardForbidden, match="permission denied for table board"):
                Board.open_read_only(stranger)
            owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
            with Board.open_read_only(stranger) as board:
                assert board.verify() == 2
            for refused in (Board.open, drop_board):
                with pytest.raises(BoardForbidden, match="permission denied"):
                    refused(stranger)
            owner.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
            write(stranger)
            with pytest.raises(BoardForbidden, match="must be owner of schema"):
                drop_board(stranger)
        finally:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")
