"""Servers as processes behind one dispatcher, one of them killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsys.serving.client import ServingClient
from agentsys.serving.launcher import LaunchError, LocalFleet, ServerSpec
from agentsys.serving.models import EngineOptions, replicated
from agentsys.serving.requests import FinishReason, GenerateRequest, Message, SamplingParams
from agentsys.serving.scheduling.workflows import WorkflowTable

SMALL = {"AGENTSYS_MODEL__KV_CACHE_MIB": "64", "AGENTSYS_MODEL__THREADS": "1"}


def question(number: int) -> GenerateRequest:
    prompt = [Message("user", f"Count from {number} upwards, in words.")]
    return GenerateRequest(prompt, SamplingParams(max_tokens=24, ignore_eos=True))


@pytest.mark.model
async def test_every_call_is_answered_when_one_of_two_server_processes_is_killed(smollm2_dir: Path) -> None:
    specs = [ServerSpec(str(smollm2_dir), environment=SMALL) for _ in range(2)]
    fleet = LocalFleet(specs, pause=0.0)
    try:
        urls = await asyncio.to_thread(fleet.start)
        model = replicated(urls, EngineOptions(), WorkflowTable(), slots=4)
        client = ServingClient({"m": model}, "m")
        alone = [await client.generate(question(number)) for number in range(2)]
        asked = [asyncio.create_task(client.generate(question(number))) for number in range(12)]
        while not all(view.in_flight for view in (await client.engine()).replicas()):
            await asyncio.sleep(0.005)
        os.kill(fleet.processes[0].pid, signal.SIGKILL)
        answers = await asyncio.wait_for(asyncio.gather(*asked), 200)
        assert [answer.text for answer in answers[:2]] == [answer.text for answer in alone]
        assert all(answer.finish_reason is FinishReason.LENGTH for answer in answers)
        assert all(answer.usage.completion_tokens == 24 for answer in answers)
        views = (await client.engine()).replicas()
        assert views[0].failed > 0 and views[1].failed == 0
        await client.close()
    finally:
        fleet.stop()


def test_a_server_that_cannot_start_is_told_and_leaves_no_other_behind(tmp_path: Path) -> None:
    fleet = LocalFleet([ServerSpec(str(tmp_path / "absent"))])
    with pytest.raises(LaunchError, match="status"):
        fleet.start()
    assert not any(process.alive for process in fleet.processes)


def test_a_signal_of_the_terminal_reaches_a_server_once(tmp_path: Path) -> None:
    """As Ctrl-C does, which goes to every process of the group; a server ends its answers at the second signal."""
    told = tmp_path / "signals"
    server = f"""
import json, signal, sys, time
def note(number, _):
    with open({str(told)!r}, "a") as file:
        print(signal.Signals(number).name, file=file)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
print(json.dumps({{"url": "http://127.0.0.1:7/v1"}}), flush=True)
time.sleep(1)  # an answer under way
"""
    launcher = f"""
import sys
from agentsys.cli import model_fleet
from agentsys.serving import launcher
launcher._COMMAND = (sys.executable, "-c", {server!r})
model_fleet._keep_running(launcher.LocalFleet([launcher.ServerSpec()]), "m", as_json=True)
"""
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, process_group=0) as running:
        assert running.stdout is not None and b"{" in running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(30) == 0
    assert told.read_text().split() == ["SIGTERM"]


def test_a_server_that_cannot_be_started_again_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"""
import json, pathlib, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
if pathlib.Path({str(tmp_path)!r}, str(port)).exists():
    sys.exit(3)
print(json.dumps({{"url": f"http://127.0.0.1:{{port or 7}}/v1"}}), flush=True)
time.sleep(600)
"""
    monkeypatch.setattr("agentsys.serving.launcher._COMMAND", (sys.executable, "-c", script))
    fleet = LocalFleet([ServerSpec(port=8), ServerSpec(port=9), ServerSpec()], pause=0.0)
    try:
        assert fleet.start()[2] == "http://127.0.0.1:7/v1"
        assert fleet.repair() == []
        (tmp_path / "8").touch()
        for process in fleet.processes:
            os.kill(process.pid, signal.SIGKILL)
        while any(process.alive for process in fleet.processes):
            time.sleep(0.01)
        broken, *repaired = fleet.repair()
        assert isinstance(broken, LaunchError) and "status 3" in str(broken)
        assert repaired == ["http://127.0.0.1:9/v1", "http://127.0.0.1:7/v1"], "at the addresses that they had"
        (tmp_path / "8").unlink()
        assert fleet.repair() == ["http://127.0.0.1:8/v1"]
    finally:
        fleet.stop()
