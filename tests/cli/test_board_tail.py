"""``agentsys board tail`` prints every commit once, also those that are made while it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.cli import board as command
from tests.cli.boards import run, write


class Ended(Exception):
    """Nobody looks any more."""


def test_commits_that_come_while_others_are_printed_are_printed_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "board.db"
    write(path, 1)
    read: Callable[..., list[Commit]] = Board.log
    rounds: list[int] = []

    def read_before_a_commit(board: Board, **options: Any) -> list[Commit]:
        found = read(board, **options)
        if len(rounds) < 3:
            write(path, 2)
        return found

    def pause(seconds: float) -> None:
        rounds.append(1)
        if len(rounds) == 5:
            raise Ended

    monkeypatch.setattr(Board, "log", read_before_a_commit)
    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=pause))
    result = run("tail", "--board", path, "--json")
    assert isinstance(result.exception, Ended)
    assert [json.loads(line)["seq"] for line in result.stdout.splitlines()] == [2, 3, 4, 5, 6, 7]
