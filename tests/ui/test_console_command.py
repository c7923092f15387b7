"""``agentsys console`` as a process: what it starts, what ends with it, and what it says when it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.cli import console
from agentsys.cli.app import app
from agentsys.protocols.http.client import RuntimeClient
from agentsys.runs import RunRecord
from tests.interrupts import hearing_interrupts

PATIENCE_SECONDS = 60
TOKEN = "the-settings-own-token"
WORKFLOW = """
from agentsys import Workflow

async def shout(context, text):
    return text.upper()

shouting = Workflow("shout", shout)
"""


def test_streamlit_is_told_to_stay_local_and_silent():
    command = console.streamlit_command(8123, browser=False)
    assert command[:4] == [sys.executable, "-m", "agentsys.ui.serve_pages", "run"]
    assert "--server.address=127.0.0.1" in command
    assert "--browser.gatherUsageStats=false" in command
    assert "--server.port=8123" in command
    assert "--server.headless=true" in command
    assert not any(flag.startswith("--server.port") for flag in console.streamlit_command(None, browser=True))


def test_without_streamlit_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(console, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["console"])
    assert done.exit_code == 2
    assert "AGS-0100" in done.stderr
    assert "pip install 'agentsys-runtime[console]'" in done.stderr


@pytest.mark.parametrize("words", [["absent.py"], ["--lake", "absent"], ["work.py", "--lake", "."]])
def test_what_cannot_be_served_is_told_before_pages_open(words, tmp_path, monkeypatch):
    (tmp_path / "work.py").write_text(WORKFLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_pages", lambda *started: pytest.fail("pages were opened"))
    done = CliRunner().invoke(app, ["console", "--board", "board.db", *words])
    assert done.exit_code in (1, 2) and "AGS-0" in done.stderr


def test_another_server_is_shown_and_none_started():
    done = CliRunner().invoke(app, ["console", "--url", "http://127.0.0.1:1", "--lake", "."])
    assert done.exit_code == 2
    assert "--url alone" in done.stderr


@pytest.fixture
def start(tmp_path):
    """Start ``agentsys console`` with arguments; return its process and the address of its pages."""
    started = []

    def run(*arguments, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-c", "from agentsys.cli.app import main; main()", "console", "--no-browser"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
        process = subprocess.Popen(
            [*command, "--port", str(port), *arguments],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=inherited | environment,
            preexec_fn=hearing_interrupts,
        )
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        await_pages(url, process)
        return process, url

    yield run
    for process in started:
        process.kill()
        process.wait()


def await_pages(url, process):
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            assert httpx.get(f"{url}/_stcore/health").text == "ok"
            return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the console did not answer; exit status {process.poll()}")


def pages_of(process) -> psutil.Process:
    (pages,) = psutil.Process(process.pid).children()
    return pages


def test_a_runtime_stands_behind_the_pages_beside_another_process(start, recorded, tmp_path):
    """The board is led by this process: the console's runs are committed through it."""
    (tmp_path / "work.py").write_text(WORKFLOW)
    process, url = start("work.py", "--board", str(recorded.path), AGENTSYS_SERVER__TOKEN=TOKEN)
    assert httpx.get(url).status_code == 200
    pages = pages_of(process)
    environment = pages.environ()
    token = environment["AGENTSYS_TOKEN"]
    assert token == TOKEN
    assert token not in " ".join([*pages.cmdline(), *psutil.Process(process.pid).cmdline()])
    assert httpx.get(environment["AGENTSYS_URL"]).status_code == 401
    with RuntimeClient(environment["AGENTSYS_URL"], token) as client:
        run = client.start("shout", "hello")
        assert [event.type for event in client.watch(run)][-1] == "run_finished"
        assert client.recorded.runs().total > 0
    assert RunRecord.load(recorded.board, run).value == "HELLO"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert gone(pages)


def test_the_pages_end_with_a_console_that_is_killed(start, path):
    Board.open(path).close()
    process, _ = start("--board", str(path))
    pages = pages_of(process)
    assert len(pages.environ()["AGENTSYS_TOKEN"]) > 40
    process.kill()
    process.wait()
    assert gone(pages)


def test_the_console_ends_with_its_pages(start, path):
    process, _ = start("--board", str(path))
    pages_of(process).kill()
    assert process.wait(PATIENCE_SECONDS) == 1


def test_a_port_that_is_taken_is_no_success(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ["--no-browser", "--port", str(taken.getsockname()[1])]
        for place in (["--board", str(path)], ["--url", "http://127.0.0.1:1"]):
            command = [sys.executable, "-c", "from agentsys.cli.app import main; main()", "console", *options, *place]
            assert subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS).returncode == 1


def test_the_pages_of_another_server_have_its_address_and_token(start):
    process, _ = start("--url", "http://127.0.0.1:1", AGENTSYS_TOKEN="the other's")
    pages = pages_of(process)
    environment = pages.environ()
    assert (environment["AGENTSYS_URL"], environment["AGENTSYS_TOKEN"]) == ("http://127.0.0.1:1", "the other's")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 130
    assert gone(pages)


def gone(process: psutil.Process) -> bool:
    ended, _ = psutil.wait_procs([process], timeout=PATIENCE_SECONDS)
    return bool(ended)
