"""The questions of a file, as ``agentsys ask --questions`` reads it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.cli.app import app
from agentsys.context import Context
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel


@pytest.mark.parametrize("listed", [[{"question": 5}], [{"question": None}], {"questions": ["how many?"]}, [7], 7])
def test_what_is_no_list_of_questions_is_told(tmp_path: Path, listed: Any) -> None:
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(listed))
    done = CliRunner().invoke(app, ["ask", "--lake", str(tmp_path), "--questions", str(file)])
    assert done.exit_code == 2 and "holds no list of questions" in done.stderr, done.exception


async def greet(context: Context, name: str) -> str:
    return f"hello {name}"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_run_that_is_no_question_is_not_resumed_as_one(tmp_path: Path, flags: list[str]) -> None:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        asyncio.run(Runtime(board, ScriptedModel(str)).run(greet, "Ada", run_id="r"))
    (tmp_path / "a.csv").write_text("town,people\nBern,1\nGenf,2\n")
    asked = ["ask", "--lake", str(tmp_path), "--resume", "r", "--board", str(path), *flags]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2 and "is of the workflow greet" in done.stderr, done.exception
