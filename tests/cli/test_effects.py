"""Settling a call in doubt on the command line. What executes a run is a process of its own; one dies in a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.here import command_here

Run = Callable[..., subprocess.CompletedProcess[str]]

CARE = """
import os
from agentsys import NOBODY, EffectClass, Label, Workflow, tool


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted("user:owner"))
def send(text: str) -> str:
    with open("sent.txt", "a") as file:
        file.write(text)
    if os.environ.get("DIE"):
        os._exit(9)
    return "sent"


async def care(context, text):
    return (await context.call("send", text=text)).value


workflow = Workflow("care", care)
"""

# The name under which the command is completed.
MAIN = [sys.executable, "-c", "from agentsys.cli.app import app; app(prog_name='agentsys')"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "care.py").write_text(CARE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    own = {"AGENTSYS_BOARD__PATH": str(tmp_path / "board.db"), "NO_COLOR": "1", "COLUMNS": "200"}
    shared = {**kept, **own}

    def invoke(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        if arguments[:1] == ("effects",):
            return command_here(*arguments, cwd=tmp_path, **own)
        return subprocess.run(
            [*MAIN, *arguments], cwd=tmp_path, env={**shared, **extra}, capture_output=True, text=True, timeout=120
        )

    return invoke


def test_a_call_in_doubt_is_found_settled_and_goes_on(run: Run, tmp_path: Path) -> None:
    assert run("run", "care.py", "--input", '"hello"', DIE="1").returncode == 9
    (found,) = json.loads(run("effects", "list", "--json").stdout)
    assert (found["tool"], found["state"], found["arguments"]) == ("send", "started", {"text": "hello"})
    assert found["effect"] in run("effects", "list").stdout
    settled = run("effects", "settle", found["effect"][:6], "succeeded", "--result", '"by hand"', "--note", "I called")
    assert settled.returncode == 0, settled.stderr
    assert "resumed" in settled.stderr
    shown = json.loads(run("effects", "show", found["effect"]).stdout)
    assert (shown["settled"]["by"], shown["settled"]["note"]) == ("user:owner", "I called")
    done = run("run", "care.py", "--resume", "latest", "--json")
    assert json.loads(done.stdout)["value"] == "by hand"
    assert (tmp_path / "sent.txt").read_text() == "hello"
    assert json.loads(run("effects", "list", "--json").stdout) == []
    again = run("effects", "settle", found["effect"], "failed", "--json")
    assert again.returncode == 1
    assert json.loads(again.stderr)["error"]["code"] == "AGS-0216"


def test_a_failed_run_is_told_to_be_forked_and_words_are_checked(run: Run) -> None:
    run("run", "care.py", "--input", '"hello"', DIE="1")
    assert "effects settle" in run("run", "care.py", "--resume", "latest").stderr
    (found,) = json.loads(run("effects", "list", "--state", "in_doubt", "--json").stdout)
    settled = run("effects", "settle", found["effect"], "redo")
    assert f"agentsys runs fork {found['run']} --at {found['seq']}" in settled.stderr
    assert run("effects", "settle", found["effect"], "maybe").returncode == 2
    assert run("effects", "settle", found["effect"], "redo", "--result", "1").returncode == 2
    assert run("effects", "list", "--state", "odd").returncode == 2
    unknown = run("effects", "settle", "zz", "failed")
    assert unknown.returncode == 1
    assert "AGS-0250" in unknown.stderr


@pytest.mark.parametrize("typed", ["agentsys effects settle ", "agentsys effects settle {effect} "])
def test_tab_completes_effects_and_words(run: Run, typed: str) -> None:
    run("run", "care.py", "--input", '"hello"', DIE="1")
    (found,) = json.loads(run("effects", "list", "--json").stdout)
    words = typed.format(effect=found["effect"])
    environment = {"_AGENTSYS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    completed = run(**environment).stdout
    assert (found["effect"] in completed) == ("{" not in typed)
    assert ("redo" in completed) == ("{" in typed)
