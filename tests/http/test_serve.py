"""`agentsys serve` as a process of its own, and `agentsys runs` against it from this one."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette

from agentsys.cli.serve import run_server
from agentsys.protocols.http.client import RuntimeClient, ServerRefused, ServerUnreachable
from agentsys.protocols.http.streams import Stopping
from agentsys.serving.server.operation import Operation
from tests.cli.here import command_here

TOKEN = "a-token-that-nobody-may-see"
WORKFLOWS = """
import asyncio
from agentsys import Workflow

async def shout(context, text):
    return text.upper()

async def sleeps(context, text):
    await asyncio.sleep(60)

shouting = Workflow("shout", shout)
sleeping = Workflow("sleeps", sleeps)
"""


def agentsys(*arguments, **environment):
    # Without the caller's own settings.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    command = [sys.executable, "-c", "from agentsys.cli.app import main; main()", *arguments]
    return command, inherited | environment


def call(*arguments, cwd, **environment):
    if arguments[0] == "runs":
        return command_here(*arguments, cwd=cwd, **environment)
    command, env = agentsys(*arguments, **environment)
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "work.py").write_text(WORKFLOWS)
    arguments = ["serve", "work.py", "--board", str(tmp_path / "b.db"), "--port", "0", "--json"]
    command, env = agentsys(*arguments, AGENTSYS_SERVER__TOKEN=TOKEN)
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], (tmp_path / "stderr").read_text()
        told = json.loads("".join(lines))
        assert told["workflows"] == ["shout", "sleeps"]
        yield told["url"]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert TOKEN not in "".join(lines) + rest + (tmp_path / "stderr").read_text()


def test_an_interrupt_before_the_server_begins_is_no_fault(capfd):
    """Such as one that comes while the runtime is composed, which awaits nothing."""

    async def interrupted():
        asyncio.current_task().cancel()
        await run_server(Starlette(), listener, Stopping(), Operation())

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert capfd.readouterr().err == ""


def test_runs_are_steered_from_the_command_line(server, tmp_path):
    remote = {"AGENTSYS_URL": server, "AGENTSYS_TOKEN": TOKEN, "cwd": tmp_path}
    done = call("runs", "start", "shout", "--input", '"hello"', **remote)
    assert (done.returncode, done.stdout) == (0, "HELLO\n"), done.stderr
    held = call("runs", "start", "sleeps", "--no-wait", **remote).stdout.strip()
    assert call("runs", "cancel", held, **remote).returncode == 0
    listed = json.loads(call("runs", "list", "--json", **remote).stdout)
    assert [(run["workflow"], run["status"]) for run in listed] == [("sleeps", "cancelled"), ("shout", "done")]
    assert json.loads(call("runs", "show", held, **remote).stdout)["status"] == "cancelled"
    missing = call("runs", "show", "none", **remote)
    assert missing.returncode == 1 and "AGS-0601" in missing.stderr


def test_no_token_no_answer_and_no_word_of_it(server, tmp_path):
    for given in ({}, {"AGENTSYS_TOKEN": "wrong"}):
        refused = call("runs", "list", "--url", server, cwd=tmp_path, **given)
        assert refused.returncode == 1 and "AGS-0701" in refused.stderr
    # The settings' token is for the settings' server alone.
    named = call("runs", "list", "--url", server, cwd=tmp_path, AGENTSYS_SERVER__TOKEN=TOKEN)
    assert named.returncode == 1 and TOKEN not in named.stderr + named.stdout
    for path in ("", "/api/v1/health", f"/api/v1/runs/{TOKEN[:3]}"):
        assert TOKEN not in httpx.get(server + path).text


def test_the_client_watches(server):
    with RuntimeClient(server, TOKEN) as client:
        run = client.start("shout", "hi")
        assert [event.type for event in client.watch(run)][-1] == "run_finished"
        assert client.run(run).value == "HI"
        assert client.board().head >= client.commits(run=run)[-1].seq
        with pytest.raises(ServerRefused, match="AGS-0605"):
            client.start("none")
    assert TOKEN not in repr(vars(client))


def test_nobody_there():
    with pytest.raises(ServerUnreachable), RuntimeClient("http://127.0.0.1:9") as client:
        client.health()


def test_serve_refuses_others_without_a_token(tmp_path):
    refused = call("serve", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path)
    assert refused.returncode == 2 and "AGS-0704" in refused.stderr


def test_the_settings_never_show_the_token(tmp_path):
    for arguments in (("config", "show"), ("config", "show", "--json")):
        shown = call(*arguments, cwd=tmp_path, AGENTSYS_SERVER__TOKEN=TOKEN)
        assert shown.returncode == 0 and TOKEN not in shown.stdout + shown.stderr
    short = call("config", "show", cwd=tmp_path, AGENTSYS_SERVER__TOKEN="secret-7")
    assert short.returncode == 2 and "secret-7" not in short.stdout + short.stderr
