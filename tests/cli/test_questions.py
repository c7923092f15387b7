"""The questions of a file, as ``agentsys ask --questions`` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.cli.app import app


@pytest.mark.parametrize("listed", [[{"question": 5}], [{"question": None}], {"questions": ["how many?"]}, [7], 7])
def test_what_is_no_list_of_questions_is_told(tmp_path: Path, listed: Any) -> None:
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(listed))
    done = CliRunner().invoke(app, ["ask", "--lake", str(tmp_path), "--questions", str(file)])
    assert done.exit_code == 2 and "holds no list of questions" in done.stderr, done.exception
