"""Erasure on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsys.blackboard.board import Board
from tests.cli.boards import run

SECRET = "ann lives in the third house"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    with Board.open(path) as opened:
        for key in ("ann", "bob"):
            tx = opened.begin(f"user:{key}")
            tx.put("people", key, f"{SECRET} {key}", type="person")
            opened.commit(tx)
        tx = opened.begin("user:bob")
        tx.get("people", "ann")
        tx.put("notes", "of ann", SECRET, type="note")
        opened.commit(tx)
    return path


def test_a_dry_run_says_what_would_go(board: Path) -> None:
    told = run("erase", "people", "ann", "--derived", "--dry-run", "--json", "--board", board)
    assert json.loads(told.stdout) == [{"topic": "notes", "key": "of ann"}, {"topic": "people", "key": "ann"}]
    assert SECRET.encode() in board.read_bytes()


def test_nothing_is_left_in_the_file(board: Path) -> None:
    told = run("erase", "people", "ann", "--derived", "--reason", "asked for", "--yes", "--json", "--board", board)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == {"entries": 2, "values": 2, "commit": 4}
    assert f"{SECRET} ann".encode() not in board.read_bytes() and f"{SECRET} bob".encode() in board.read_bytes()
    verified = run("verify", "--board", board)
    assert "4 commits, each as it was committed; 2 values were erased, as it is on record" in verified.stdout
    assert json.loads(run("verify", "--board", board, "--json").stdout)["erased"] == 2
    assert "$erased" in run("log", "--board", board, "--json").stdout


def test_it_asks_before_and_takes_no_for_an_answer(board: Path) -> None:
    refused = run("erase", "people", "--board", board, typed="n\n")
    assert refused.exit_code != 0 and SECRET.encode() in board.read_bytes()
    assert run("erase", "people", "--board", board, typed="y\n").exit_code == 0
    assert f"{SECRET} bob".encode() not in board.read_bytes()


def test_what_a_principal_shaped_goes(board: Path) -> None:
    told = run("erase", "--shaped-by", "user:ann", "--yes", "--json", "--board", board)
    assert json.loads(told.stdout)["entries"] == 2


def test_all_of_the_board_is_not_what_nothing_said_means(board: Path) -> None:
    told = run("erase", "--yes", "--board", board)
    assert told.exit_code != 0 and "not said what to erase" in told.output
    nothing = run("erase", "people", "nobody", "--yes", "--board", board, "--json")
    assert nothing.exit_code == 0 and json.loads(nothing.stdout) == {"entries": 0, "values": 0, "commit": None}


def test_what_it_asks_does_not_mix_with_its_json(board: Path) -> None:
    told = run("erase", "people", "--json", "--board", board, typed="y\n")
    # The runner, unlike a terminal, shows on stdout what is typed.
    assert json.loads(told.stdout.removeprefix(" y\n"))["values"] == 2
    assert "people" in told.stderr
