"""The client of the API, and the commands that use it, against a server on a real socket."""

import asyncio
import json
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from agentsys.agents import agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import InvalidValue
from agentsys.blackboard.labels import Label, Readers
from agentsys.cli.app import app
from agentsys.errors import ConfigurationError
from agentsys.labelled import Labelled
from agentsys.protocols.http.client import RuntimeClient, ServerUnreachable
from agentsys.runtime import Runtime
from agentsys.sections import PrincipalSettings
from agentsys.testing import ScriptedModel
from agentsys.tools import tool


async def echo(context, text):
    return text


async def fails(context, text):
    raise ValueError("no")


async def asks(context, text):
    return (await context.ask("fact", text, single=True)).value


@agent(kind="fact")
async def knowing(context, request):
    return request.value


@tool()
def tell(text: str) -> str:
    raise AssertionError("a denied tool was called")


async def tells(context, text):
    return (await context.call("tell", text=text)).value


async def confides(context, text):
    return Labelled("a secret of Ann's", Label.trusted("user:ann", Readers.of("user:ann")))


@pytest.fixture
def runtime(board):
    return Runtime(
        board, ScriptedModel(str), tools=[tell], agents=[knowing], workflows=[echo, fails, asks, tells, confides]
    )


@pytest.fixture
def command(client, monkeypatch):
    monkeypatch.setenv("AGENTSYS_URL", str(client.base_url))
    monkeypatch.setenv("AGENTSYS_TOKEN", client.headers["Authorization"].removeprefix("Bearer "))
    return lambda *words: CliRunner().invoke(app, ["runs", *words])


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {"a": [float("inf")]}])
def test_what_is_no_json_is_not_sent(client, value: Any):
    with RuntimeClient(str(client.base_url)) as opened, pytest.raises(InvalidValue):
        opened.start("echo", value)


@pytest.mark.parametrize(("given", "code"), [("NaN", 1), ('"\\ud800"', 1), ("[" * 100_000, 2), ("{", 2)])
def test_an_input_that_is_no_json_is_told(command, given, code):
    done = command("start", "echo", "--input", given)
    assert done.exit_code == code and "AGS-0" in done.stderr, done.exception


def test_a_token_of_any_letters_opens_the_server(runtime, serve):
    token = "geheimes Wörterbuch"
    ann = {"ann": PrincipalSettings(token=SecretStr(token))}
    with serve(runtime, token=None, principals=ann) as face, RuntimeClient(str(face.base_url), token) as opened:
        assert opened.health().principal == "user:ann"


def test_a_token_that_cannot_be_sent_is_not_shown():
    with pytest.raises(ConfigurationError) as refused:
        RuntimeClient("http://127.0.0.1:9", "correct-horse-battery\r").health()
    assert "correct" not in str(refused.value)


@pytest.mark.parametrize(("workflow", "code"), [("echo", 0), ("fails", 1), ("tells", 3)])
def test_a_refused_run_is_told_from_a_failed_one(command, workflow, code):
    for more in ([], ["--json"]):
        assert command("start", workflow, "--input", '"x"', *more).exit_code == code


def test_a_run_of_a_server_is_shown_like_one_of_this_process(command):
    done = command("start", "asks", "--input", '"x"')
    assert done.stdout == "x\n"
    assert "● asks posts a request for fact" in done.stderr and "● round closed: answered" in done.stderr


def test_the_newest_run_has_a_name_for_every_command(command):
    started = command("start", "echo", "--input", '"x"', "--no-wait").stdout.strip()
    assert command("watch", "latest").stdout == "x\n"
    cancelled = command("cancel", "latest")
    assert (cancelled.exit_code, cancelled.stderr) == (0, f"run {started}: done\n"), "of a finished run nothing changes"
    assert command("resume", "latest").exit_code == 0
    assert command("fork", "latest").stdout == "x\n"


def test_what_is_json_anyway_takes_the_flag(command):
    command("start", "echo", "--input", '"x"')
    assert json.loads(command("show", "latest", "--json").stdout)["value"] == "x"
    assert json.loads(command("show", "none", "--json").stderr)["error"]["code"] == "AGS-0709"


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "127.0.0.1:8700"])
def test_what_is_no_address_is_told_as_that(url):
    with pytest.raises(ServerUnreachable, match="is no address of a server"):
        RuntimeClient(url)


def test_what_a_label_keeps_from_the_caller_is_not_called_none(command):
    done = command("start", "confides")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "keeps what came of it" in done.stderr


HELD = """
import asyncio
import sys

from agentsys.blackboard.board import Board
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel


async def held(context, text):
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return text


async def main():
    with Board.open(sys.argv[1]) as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[held])
        await (runtime.resume("r") if sys.argv[2:] else runtime.run("held", "hello", run_id="r"))


asyncio.run(main())
"""


@pytest.mark.parametrize("dies", [False, True])
def test_a_run_of_another_process_is_watched_until_nobody_executes_it(tmp_path, serve, dies):
    program = [sys.executable, "-c", HELD, str(tmp_path / "b.db")]
    with (
        Board.open(tmp_path / "b.db") as board,
        serve(Runtime(board, ScriptedModel(str)), token=None) as client,
        subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout.readline() == "held\n"
        server = ["--url", str(client.base_url)]
        assert "held" in CliRunner().invoke(app, ["runs", "list", *server]).stdout
        later = threading.Timer(1.0, other.kill if dies else other.stdin.close)
        later.start()
        done = CliRunner().invoke(app, ["runs", "watch", "r", *server])
        ended = not later.is_alive()
        later.join()
        stream = client.get("/api/v1/runs/r/stream").text
    assert ended
    assert (done.exit_code, done.stdout) == ((1, "") if dies else (0, "hello\n"))
    assert stream.count("event: run\n") == 1 and ('"status":"running"' in stream) is dies


@pytest.mark.parametrize("taken", ["here", "elsewhere"])
def test_a_run_that_waits_for_a_worker_is_watched_from_when_one_takes_it(tmp_path, serve, taken):
    async def held(context, text):
        return text

    with Board.open(tmp_path / "b.db") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[held])
        asyncio.run(runtime.enqueue("held", "hello", run_id="r"))
        with serve(runtime, token=None) as client:
            program = [sys.executable, "-c", HELD, str(tmp_path / "b.db"), "r"]
            worker = partial(subprocess.run, program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            later = threading.Timer(1.0, partial(client.post, "/api/v1/runs/r/resume") if taken == "here" else worker)
            later.start()
            followed: list[str] = []
            stream = threading.Thread(target=lambda: followed.append(client.get("/api/v1/runs/r/stream").text))
            stream.start()
            done = CliRunner().invoke(app, ["runs", "watch", "r", "--url", str(client.base_url)])
            stream.join()
            later.join()
    assert (done.exit_code, done.stdout) == (0, "hello\n")
    assert done.stderr.startswith("run r waits for a worker")
    assert ("run_finished" in followed[0]) is (taken == "here")
    assert '"status":"done"' in followed[0]
