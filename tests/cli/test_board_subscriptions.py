"""Subscriptions on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.cli.app import app
from tests.cli.boards import run, write


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    write(path, 10)
    with Board.open(path) as opened:
        opened.subscribe("reader", Predicate(topic="t"), after=6)
        opened.subscribe("all", Predicate(), after=10)
    return path


def test_they_are_listed_with_what_they_have_not_handled(board: Path) -> None:
    assert json.loads(run("subscriptions", "--json", "--board", board).stdout) == [
        {"name": "all", "position": 10, "behind": 0, "predicate": {}},
        {"name": "reader", "position": 6, "behind": 4, "predicate": {"topic": "t"}},
    ]
    shown = run("subscriptions", "--board", board).stdout
    assert "topic t" in shown and "everything" in shown


def test_one_that_nobody_uses_keeps_nothing_once_it_is_ended(board: Path) -> None:
    told = run("compact", "--keep", "2", "--dry-run", "--board", board).stdout
    assert "for subscription reader" in told and "agentsys board unsubscribe" in told
    assert run("unsubscribe", "reader", "--board", board, typed="n\n").exit_code != 0
    ended = run("unsubscribe", "reader", "--board", board, typed="y\n")
    assert "reader has handled commit 6, 4 commits since" in ended.stderr
    assert "ended subscription reader" in ended.stdout
    told = run("compact", "--keep", "2", "--dry-run", "--board", board).stdout
    assert "readable from commit 8" in told and "unsubscribe" not in told


def test_what_is_not_there_cannot_be_ended(board: Path) -> None:
    refused = run("unsubscribe", "nobody", "--yes", "--board", board)
    assert refused.exit_code == 2 and "agentsys board subscriptions" in refused.stderr


def test_names_are_completed(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AGENTSYS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"agentsys board unsubscribe --board {board} re")
    monkeypatch.setenv("COMP_CWORD", "5")
    completed = CliRunner().invoke(app, [], prog_name="agentsys")
    assert completed.stdout.split() == ["reader"]
