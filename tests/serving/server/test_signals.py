"""A server as a process of its own: what a signal does while an answer is under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

SERVER = """
import signal, socket, sys, threading
from agentsys.serving.client import ServingClient
from agentsys.serving.server.app import serving_app
from agentsys.serving.server.limits import ServerLimits
from agentsys.serving.server.operation import Operation
from agentsys.serving.server.running import DrainingServer, server_config
from tests.serving.server.scripted import ScriptedEngine

engine = ScriptedEngine()
engine.go_on.clear()
operation = Operation(ServerLimits(drain_seconds=20.0))
listener = socket.create_server(("127.0.0.1", 0))
config = server_config(serving_app(ServingClient({"m": engine}, "m"), operation), read_seconds=30.0, lifespan="off")
print(listener.getsockname()[1], flush=True)
# A line on standard input lets the engine go on.
threading.Thread(target=lambda: (sys.stdin.readline(), engine.go_on.set()), daemon=True).start()
DrainingServer(config, operation.lifecycle, lambda count: print("finishing", count, flush=True)).run([listener])
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        yield running
        running.kill()


@pytest.mark.parametrize("patient", [True, False])
def test_the_first_signal_drains_and_the_second_ends(process: subprocess.Popen[str], patient: bool) -> None:
    assert process.stdout is not None and process.stdin is not None
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    body = {"prompt": "x", "stream": True}
    with httpx.Client(timeout=30) as client, client.stream("POST", f"{url}/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "finishing 1\n"
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 503
        if patient:
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert first.startswith("data: ") and "data: [DONE]" in rest
    assert ("AGS-0722" in "".join(rest)) is not patient
    assert process.wait(20) == (0 if patient else -signal.SIGTERM)
