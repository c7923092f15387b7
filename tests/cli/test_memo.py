"""The answers that a board keeps, on the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
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
