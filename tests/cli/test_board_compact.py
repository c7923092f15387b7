"""Compaction on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from tests.cli.boards import run, write


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    write(path, 10)
    with Board.open(path) as opened:
        opened.subscribe("reader", Predicate(), after=6)
    return path


def test_a_dry_run_says_what_would_go_and_drops_nothing(board: Path) -> None:
    told = run("compact", "--board", board, "--keep", "2", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "would drop: 6 commits, 5 versions, 0 effect steps" in told.stdout
    assert "would be readable from commit 6 of 10 on" in told.stdout
    assert "kept from commit 6 on for subscription reader" in told.stdout
    with Board.open_read_only(board) as opened:
        assert opened.horizon == 0 and len(opened.log()) == 10


def test_compacting_drops_the_past_and_leaves_a_board_that_verifies(board: Path) -> None:
    told = run("compact", "--board", board, "--keep", "2", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == {
        "head": 10,
        "horizon": 6,
        "was": 0,
        "dropped": {"commits": 6, "versions": 5, "effect steps": 0},
        "pins": [{"needed_by": "subscription reader", "from": 6}],
        "dry_run": False,
    }
    assert json.loads(run("verify", "--board", board, "--json").stdout) == {"commits": 11, "horizon": 6, "erased": 0}
    assert "commits 7 to 11" in run("verify", "--board", board).stdout
    assert "AGS-0260" in run("show", "t", "k", "--at", "5", "--board", board).stderr
    assert run("show", "t", "k", "--at", "6", "--board", board).exit_code == 0
    assert [commit["seq"] for commit in json.loads(run("log", "--board", board, "--json").stdout)] == [7, 8, 9, 10, 11]


def test_a_board_that_is_not_there_and_a_bad_span_are_refused(tmp_path: Path, board: Path) -> None:
    missing = run("compact", "--board", tmp_path / "none.db")
    assert missing.exit_code == 1 and "AGS-0209" in missing.stderr and not (tmp_path / "none.db").exists()
    assert run("compact", "--board", board, "--keep", "soon").exit_code == 2


def test_the_file_is_made_smaller(tmp_path: Path) -> None:
    board = tmp_path / "board.db"
    with Board.open(board) as opened:
        for number in range(10):
            tx = opened.begin("ann")
            tx.put("t", "large", f"{number} {'x' * 100_000}", type="item")
            opened.commit(tx)
    told = run("compact", "--board", board, "--keep", "1", "--shrink", "--json")
    document = json.loads(told.stdout)
    assert document["bytes_before"] - document["bytes_after"] > 800_000
    assert f"the file would take at most {document['bytes_after'] / 2**20:,.1f} MiB" in (
        run("compact", "--board", board, "--keep", "1", "--shrink", "--dry-run").stdout
    )
    assert "the file takes" in run("compact", "--board", board, "--keep", "1", "--shrink").stdout
