"""``agentsys runs`` beside a board: of which runs it tells where no server answers, and which run ``latest`` is."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import typer

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label, Readers
from agentsys.cli.app import app
from agentsys.cli.run_argument import completed_run, completed_unfinished
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from tests.cli.here import command_here
from tests.cli.test_commands import completions
from tests.http.conftest import TOKEN, served

WORKFLOW = """
from agentsys import Workflow

async def add(context, number):
    return number + 1

workflow = Workflow("add", add)
"""
ANN_ALONE = Label.trusted("user:ann", Readers.of("user:ann"))

Run = Callable[..., CompletedProcess[str]]


async def add(context: Any, number: int) -> int:
    return number + 1


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    board = str(tmp_path / "board.db")
    return lambda *words, **more: command_here(
        *words, cwd=tmp_path, **{"AGENTSYS_SERVER__PORT": port, "AGENTSYS_BOARD__PATH": board} | more
    )


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two finished runs, a secret one among them, and one that waits for a worker."""

    async def leave() -> list[str]:
        with Board.open(tmp_path / "board.db") as board:
            runtime = Runtime(board, ScriptedModel(str), workflows=[add])
            origin = {"file": str(tmp_path / "add.py")}
            first = await runtime.run("add", 1, origin=origin)
            secret = await runtime.run("add", 987654321, label=ANN_ALONE)
            return [first.run, secret.run, await runtime.enqueue("add", 2, origin=origin)]

    (tmp_path / "add.py").write_text(WORKFLOW)
    return asyncio.run(leave())


def test_without_a_server_the_runs_are_the_board_s(run: Run, runs: list[str]) -> None:
    done = run("runs", "list", "--json")
    assert done.returncode == 0 and "no server at http://127.0.0.1:" in done.stderr
    listed = json.loads(done.stdout)
    assert [one["run"] for one in listed] == runs[::-1]
    assert [one["run"] for one in json.loads(run("runs", "list", "--status", "done", "--json").stdout)] == runs[1::-1]
    shown = json.loads(run("runs", "show", runs[0]).stdout)
    assert (shown["status"], shown["input"], shown["value"]) == ("done", 1, 2)
    assert run("runs", "show", "nosuch").returncode == 1


def test_what_the_owner_may_not_read_is_withheld(run: Run, runs: list[str]) -> None:
    shown = json.loads(run("runs", "show", runs[1]).stdout)
    assert shown["withheld"] and shown["input"] is None and shown["value"] is None
    assert "98765432" not in run("runs", "list").stdout


def test_a_named_board_is_read_and_no_server_asked(run: Run, runs: list[str], tmp_path: Path) -> None:
    done = run("runs", "list", "--board", str(tmp_path / "board.db"), AGENTSYS_BOARD__PATH="elsewhere.db")
    assert done.returncode == 0 and done.stderr == "" and runs[0] in done.stdout


def test_a_named_server_is_asked_and_no_board_read(run: Run, runs: list[str]) -> None:
    done = run("runs", "list", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1 and "AGS-0708" in done.stderr and runs[0] not in done.stdout
    assert run("runs", "list", "--status", "over").returncode == 2


def test_latest_is_the_newest_run(run: Run, runs: list[str]) -> None:
    assert json.loads(run("runs", "show", "latest").stdout)["run"] == runs[-1]
    assert json.loads(run("run", "add.py", "--resume", "latest", "--json").stdout)["run"] == runs[-1]
    replayed = json.loads(run("replay", "latest", "--json").stdout)
    assert (replayed["run"], replayed["identical"]) == (runs[-1], True)


def test_the_log_of_a_run_is_of_one_that_is_there(run: Run, runs: list[str]) -> None:
    newest = json.loads(run("board", "log", "--run", "latest", "--json").stdout)
    assert newest and {commit["run"] for commit in newest} == {runs[-1]}
    assert run("board", "log", "--run", "nosuch").returncode == 1
    assert "AGS-0601" in run("board", "tail", "--run", "nosuch").stderr


def test_what_is_cut_off_is_marked(run: Run, tmp_path: Path) -> None:
    with Board.open(tmp_path / "board.db") as board:
        writing = board.begin("user:owner")
        for number in range(20):
            writing.put("notes", f"a-key-of-some-length-{number}", number, type="note")
        board.commit(writing)
    assert "…" in run("board", "log").stdout


def test_a_run_is_cancelled_on_the_board(run: Run, runs: list[str]) -> None:
    assert run("runs", "cancel", runs[-1]).returncode == 0
    assert json.loads(run("runs", "show", runs[-1]).stdout)["status"] == "cancelled"
    assert run("run", "add.py", "--resume", "latest").returncode == 2
    assert run("runs", "cancel", runs[0]).returncode == 0
    assert json.loads(run("runs", "show", runs[0]).stdout)["status"] == "done", "of a finished run nothing changes"
    assert "AGS-0601" in run("runs", "cancel", "nosuch").stderr


def test_of_no_runs_none_is_the_latest(run: Run, tmp_path: Path) -> None:
    Board.open(tmp_path / "board.db").close()
    for words in (["runs", "show", "latest"], ["replay", "latest"], ["why", "latest"]):
        done = run(*words)
        assert done.returncode == 2 and "There is no run yet" in done.stderr


def test_runs_complete(runs: list[str], tmp_path: Path) -> None:
    context = typer.Context(typer.main.get_command(app))
    context.params = {"board": str(tmp_path / "board.db")}
    assert list(completed_run(context, "")) == [(one, "add") for one in runs[::-1]]
    assert list(completed_unfinished(context, "")) == [(runs[-1], "add")]
    assert list(completed_run(context, runs[0][:10])) == [(runs[0], "add")]


def test_runs_complete_from_where_the_command_asks(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(tmp_path / "board.db"))
    commands = ("watch", "resume", "fork", "show", "cancel")

    def offered() -> list[set[str]]:
        return [completions("runs", command, "") - {""} for command in commands]

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[add])
        elsewhere = asyncio.run(runtime.run("add", 1)).run
        with served(runtime) as client:
            monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)
            monkeypatch.setenv("AGENTSYS_SERVER__PORT", str(client.base_url.port))
            assert offered() == [{elsewhere}] * 5
    assert offered() == [set()] * 3 + [set(runs)] * 2
