"""Copies of a board on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsys.blackboard.board import Board
from tests.cli.boards import run, write


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    write(path, 3)
    return path


def report(*arguments: object) -> dict[str, object]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    told: dict[str, object] = json.loads(result.stdout)
    return told


def test_an_export_comes_back_as_the_same_board(board: Path, tmp_path: Path) -> None:
    file, new = tmp_path / "board.jsonl", tmp_path / "new.db"
    exported = report("export", file, "--board", board)
    assert exported["commits"] == 3
    assert report("import", file, "--check")["head_hash"] == exported["head_hash"]
    assert report("import", file, "--board", new, "--head", exported["head_hash"]) == exported
    assert report("verify", "--board", new) == {"commits": 3, "horizon": 0, "erased": 0}
    assert "AGS-0252" in run("import", file, "--board", new).output
    assert "AGS-0254" in run("import", file, "--board", tmp_path / "x.db", "--head", "0").output
    assert exported["head_hash"] in run("import", file, "--check").stdout


def test_an_export_can_go_to_stdout(board: Path, tmp_path: Path) -> None:
    file = tmp_path / "piped.jsonl"
    file.write_text(run("export", "-", "--board", board).stdout)
    assert report("import", file, "--board", tmp_path / "new.db")["commits"] == 3


def test_a_backup_takes_the_place_of_an_empty_file(board: Path, tmp_path: Path) -> None:
    backup, empty = tmp_path / "backup.db", tmp_path / "empty.db"
    saved = report("backup", backup, "--board", board)
    empty.touch()
    assert report("restore", backup, "--board", empty, "--replace")["head_hash"] == saved["head_hash"]


def test_a_backup_takes_the_place_of_a_board_only_when_told(board: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    saved = report("backup", backup, "--board", board)
    with Board.open(board) as opened:
        tx = opened.begin("ann")
        tx.put("t", "k", "later", type="item")
        opened.commit(tx)
    refused = run("restore", backup, "--board", board)
    assert (refused.exit_code, "--replace" in refused.output) == (1, True)
    assert report("restore", backup, "--board", board, "--replace")["head_hash"] == saved["head_hash"]
    with Board.open_read_only(board) as opened:
        entry = opened.get("t", "k")
        assert entry is not None
        assert entry.value == 2
    backup.write_bytes(backup.read_bytes()[:5000])
    assert run("restore", backup, "--board", board, "--replace").exit_code == 1
    assert report("verify", "--board", f"{board}.replaced") == {"commits": 4, "horizon": 0, "erased": 0}
