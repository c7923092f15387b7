"""``agentsys console`` as a process: what it starts, and what it says when it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from typer.testing import CliRunner

from agentsys.cli import console
from agentsys.cli.app import app

PATIENCE_SECONDS = 60


def test_streamlit_is_told_to_stay_local_and_silent():
    command = console.streamlit_command(8123, browser=False)
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"]
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


def test_the_server_answers_on_the_loopback_and_stops_on_a_signal(recorded):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from agentsys.cli.app import main; main()", "console", "--no-browser"]
    served = subprocess.Popen(
        [*command, "--board", str(recorded.path), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")},
    )
    try:
        assert answers(f"http://127.0.0.1:{port}/_stcore/health", served)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        served.send_signal(signal.SIGTERM)
        served.wait(PATIENCE_SECONDS)
    finally:
        served.kill()
        served.wait()


def answers(url: str, served: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and served.poll() is None:
        try:
            return httpx.get(url).text == "ok"
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the console did not answer; exit status {served.poll()}")
