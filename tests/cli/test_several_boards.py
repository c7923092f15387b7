"""Several boards of one file or database on the command line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentsys.cli.board_option import completed_board
from tests.cli.boards import run, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "team.db"
    for place, count in ((str(path), 1), (f"{path}?board=notes", 2)):
        write(place, count)
    return path


def test_the_boards_of_a_file_are_listed(path: Path) -> None:
    told = run("list", "--board", path, "--json")
    assert [(item["board"], item["head"]) for item in json.loads(told.stdout)] == [("main", 1), ("notes", 2)]
    assert "notes" in run("list", "--board", f"{path}?board=notes").stdout


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    told = run("list", "--board", tmp_path / "none.db")
    assert told.exit_code != 0 and "AGS-0209" in told.output


def test_commands_mean_the_board_that_is_named(path: Path) -> None:
    shown = json.loads(run("show", "t", "k", "--board", f"{path}?board=notes").stdout)
    assert shown["value"] == 1
    assert json.loads(run("verify", "--board", path, "--json").stdout) == {
        "commits": 1,
        "horizon": 0,
        "erased": 0,
    }


def test_all_boards_are_verified(path: Path) -> None:
    told = run("verify", "--all", "--board", path)
    assert told.exit_code == 0 and "main: 1 commit, each" in told.stdout and "notes: 2 commits" in told.stdout
    assert [item["board"] for item in json.loads(run("verify", "--all", "--board", path, "--json").stdout)] == [
        "main",
        "notes",
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE notes$commit_log SET principal = 'user:eve' WHERE seq = 1")
    assert run("verify", "--board", path).exit_code == 0
    altered = run("verify", "--all", "--board", path)
    assert altered.exit_code == 1 and "AGS-0218" in altered.output


@pytest.mark.parametrize("damage", ["UPDATE board SET schema_version = 0", "DELETE FROM board"])
def test_a_damaged_board_is_told_and_the_others_are_listed_and_verified(path: Path, damage: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    listed = run("list", "--board", path, "--json")
    broken, whole = json.loads(listed.stdout)
    assert listed.exit_code == 0 and whole["head"] == 2
    assert (broken["board"], broken["error"]["code"]) == ("main", "AGS-0202")
    shown = run("list", "--board", path)
    assert "AGS-0202" in shown.stdout and "notes" in shown.stdout and "schema version" in shown.stderr
    verified = run("verify", "--all", "--board", path, "--json")
    broken, whole = json.loads(verified.stdout)
    assert verified.exit_code == 1 and whole["commits"] == 2 and broken["error"]["code"] == "AGS-0202"
    told = run("verify", "--all", "--board", path)
    assert told.exit_code == 1 and "AGS-0202" in told.stderr and told.stdout.startswith("notes: 2 commits")


def test_places_of_boards_are_completed(path: Path) -> None:
    (path.parent / "teams").mkdir()
    (path.parent / "text.txt").write_text("no board")
    both = [str(path), f"{path}?board=notes"]
    assert completed_board(str(path.parent / "te")) == [*both, f"{path.parent / 'teams'}/"]
    assert completed_board(f"{path.parent}/")[:2] == both
    assert completed_board(f"{path}?board=n") == both[1:] and completed_board(f"{path}?board=x") == []
    assert completed_board(str(path.parent / "none" / "x")) == []
