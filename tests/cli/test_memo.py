"""The answers that a board keeps, on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.memo import kept_answers
from agentsys.cli.app import app
from agentsys.context import Context
from agentsys.memoisation import Memoise
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

SECRET = "the answer to everything"


@tool(effect=EffectClass.PURE, memo=Memoise())
def answer(text: str) -> str:
    return text


@tool(effect=EffectClass.PURE, memo=Memoise(seconds=0.001))
def brief(text: str) -> str:
    return text


async def calls(context: Context, text: str) -> Any:
    return [(await context.call(name, text=text)).value for name in ("answer", "brief")]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    with Board.open(path) as opened:
        asyncio.run(Runtime(opened, ScriptedModel(str), tools=[answer, brief]).run(calls, SECRET))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["memo", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_answers_are_listed_without_their_content_and_forgotten(board: Path) -> None:
    listed = run("list", "--board", board, "--json")
    assert SECRET not in listed
    assert sorted(one["name"] for one in json.loads(listed)) == ["answer", "brief"]
    assert "answer" in run("list", "--board", board)
    assert json.loads(run("forget", "--board", board, "--json")) == {"forgotten": 1}
    assert json.loads(run("forget", "--all", "--name", "other", "--board", board, "--json")) == {"forgotten": 0}
    assert "1 answer forgotten" in run("forget", "--all", "--board", board)
    assert json.loads(run("list", "--board", board, "--json")) == []


def test_a_board_that_is_not_there_does_not_come_to_be_by_forgetting(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["memo", "forget", "--board", str(tmp_path / "none.db")])
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])


def test_forgetting_has_nobody_commit_more_durably_than_the_settings_say(board: Path) -> None:
    with Board.open(board, durability="normal") as opened:
        program = [sys.executable, "-c", "from agentsys.cli.app import app; app()"]
        settings = {**os.environ, "AGENTSYS_BOARD__DURABILITY": "normal", "AGENTSYS_BOARD__PATH": str(board)}
        subprocess.run([*program, "memo", "forget", "--all"], env=settings, check=True, capture_output=True)
        committer: Any = opened.committer()
        normal = 1
        assert committer._committer._storage._writer.exec_driver_sql("PRAGMA synchronous").scalar() == normal
        assert kept_answers(opened) == []
