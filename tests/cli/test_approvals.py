"""A run that waits for a person, on the command line. What executes a run is a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.cli.app import app
from tests.cli.here import command_here
from tests.interrupts import hearing_interrupts

Run = Callable[..., subprocess.CompletedProcess[str]]

CARE = """
from agentsys import NOBODY, EffectClass, Label, Policy, Workflow, tool


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted("user:owner"))
def send(text: str) -> str:
    with open("sent.txt", "a") as file:
        file.write(text)
    return "sent"


async def care(context, text):
    city = (await context.ask_person("Which city?")).value if text == "ask" else text
    return (await context.call("send", text=city)).value


policy = Policy.of(asks=["send"])
workflow = Workflow("care", care)
"""

MAIN = [sys.executable, "-c", "from agentsys.cli.app import main; main()"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "care.py").write_text(CARE)
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> dict[str, str]:
    return {"AGENTSYS_BOARD__PATH": str(folder / "board.db"), "NO_COLOR": "1", "COLUMNS": "200"}


@pytest.fixture
def environment(settings: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    return {**kept, **settings}


@pytest.fixture
def run(folder: Path, settings: dict[str, str], environment: dict[str, str]) -> Run:
    def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "approvals":
            return command_here(*arguments, cwd=folder, **settings)
        return subprocess.run(
            [*MAIN, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return invoke


def test_without_a_person_the_command_ends_waiting_and_goes_on_once_approved(run: Run, folder: Path) -> None:
    waiting = run("run", "care.py", "--input", '"hello"')
    assert waiting.returncode == 4 and 'send(text="hello")' in waiting.stderr
    (asked,) = json.loads(run("approvals", "list", "--json").stdout)
    assert asked["id"] in waiting.stderr and asked["run"] in waiting.stderr
    assert run("run", "care.py", "--resume", "latest").returncode == 4, "it still waits"
    approved = run("approvals", "approve", asked["id"][:6], "--note", "fine")
    assert approved.returncode == 0 and "send" in approved.stdout
    assert not (folder / "sent.txt").exists(), "an approval alone does nothing"
    done = run("run", "care.py", "--resume", "latest", "--json")
    assert (done.returncode, json.loads(done.stdout)["value"]) == (0, "sent")
    assert (folder / "sent.txt").read_text() == "hello"
    again = run("approvals", "reject", asked["id"])
    assert again.returncode == 3 and "AGS-0331" in again.stderr
    assert json.loads(run("approvals", "show", asked["id"], "--json").stdout)["note"] == "fine"


def test_a_question_wants_an_answer_and_a_refusal_ends_the_run(run: Run, folder: Path) -> None:
    assert run("run", "care.py", "--input", '"ask"').returncode == 4
    (asked,) = json.loads(run("approvals", "list", "--json").stdout)
    assert run("approvals", "approve", asked["id"]).returncode == 2
    assert run("approvals", "approve", asked["id"], "--answer", '"Graz"').returncode == 0
    assert run("run", "care.py", "--resume", "latest").returncode == 4
    (call,) = json.loads(run("approvals", "list", "--json").stdout)
    assert call["arguments"] == {"text": "Graz"}
    assert run("approvals", "reject", call["id"]).returncode == 0
    refused = run("run", "care.py", "--resume", "latest")
    assert refused.returncode == 3 and "AGS-0310" in refused.stderr
    assert not (folder / "sent.txt").exists()


def test_an_unknown_approval_is_named(run: Run) -> None:
    run("run", "care.py", "--input", '"hello"')
    unknown = run("approvals", "approve", "no-such")
    assert unknown.returncode == 1 and "AGS-0330" in unknown.stderr, "nothing was denied"


def test_what_is_said_of_a_change_is_what_will_be_done(run: Run) -> None:
    run("run", "care.py", "--input", '"hello"')
    (asked,) = json.loads(run("approvals", "list", "--json").stdout)
    modified = run("approvals", "modify", asked["id"], "--set", "text=goodbye")
    assert "text=goodbye" in modified.stdout and "hello" not in modified.stdout


@contextmanager
def attended(folder: Path, environment: dict[str, str], *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a run at a terminal, up to its question; what comes out of it goes through a pipe."""
    terminal, end = pty.openpty()
    command = [*MAIN, "run", "care.py", "--input", '"hello"', *more]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=end,
        preexec_fn=hearing_interrupts,
    ) as process:
        shown, deadline = b"", time.monotonic() + 60
        while b"Allow it?" not in shown and time.monotonic() < deadline:
            shown += os.read(terminal, 4096)
        try:
            yield process, terminal
        finally:
            process.kill()
    os.close(terminal)
    os.close(end)


def test_an_interrupt_ends_the_question_at_once(folder: Path, environment: dict[str, str]) -> None:
    with attended(folder, environment) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_a_question_that_was_answered_elsewhere_keeps_nobody(
    run: Run, folder: Path, environment: dict[str, str]
) -> None:
    with attended(folder, environment) as (process, _):
        (asked,) = json.loads(run("approvals", "list", "--json").stdout)
        assert run("approvals", "approve", asked["id"]).returncode == 0
        assert process.wait(20) == 0


def test_what_is_asked_leaves_no_trace_in_the_answer(folder: Path, environment: dict[str, str]) -> None:
    with attended(folder, environment) as (process, terminal):
        os.write(terminal, b"what?\ny\n")
        assert process.wait(20) == 0
        assert process.stdout is not None and process.stdout.read() == "sent\n"


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 3)])
def test_a_person_at_the_terminal_is_asked(typed: str, code: int, folder: Path, environment: dict[str, str]) -> None:
    terminal, end = pty.openpty()
    command = [*MAIN, "run", "care.py", "--input", '"hello"']
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=end, stdout=end, stderr=end) as process:
        shown = b""
        deadline = time.monotonic() + 60
        while b"Allow it?" not in shown and time.monotonic() < deadline:
            shown += os.read(terminal, 4096)
        os.write(terminal, typed.encode())
        assert process.wait(60) == code, shown
    assert (folder / "sent.txt").exists() == (code == 0)


def test_a_flag_that_names_a_board_counts_before_a_variable_that_names_a_server(tmp_path: Path) -> None:
    path, runner = str(tmp_path / "board.db"), CliRunner(env={"AGENTSYS_URL": "http://127.0.0.1:9"})
    Board.open(path).close()
    assert json.loads(runner.invoke(app, ["approvals", "list", "--json", "--board", path]).stdout) == []
    assert "AGS-0601" in runner.invoke(app, ["why", "r", "--board", path]).stderr, "the board has no such run"
    assert "AGS-0708" in runner.invoke(app, ["why", "r"]).stderr, "the server does not answer"
    both = ["approvals", "list", "--board", path, "--url", "http://127.0.0.1:10"]
    assert runner.invoke(app, both).exit_code == 2
