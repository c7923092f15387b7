"""Model servers on a real Ray cluster of this machine: started, asked through the dispatcher, repaired and stopped.

Run by `make test-ray`, which installs the extra `ray`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from agentsys.blackboard.labels import PUBLIC
from agentsys.serving.client import ServingClient
from agentsys.serving.launcher import RayFleet, RayMissingError, ServerSpec
from agentsys.serving.models import EngineOptions, replicated
from agentsys.serving.requests import FinishReason, GenerateRequest, Message, SamplingParams
from agentsys.serving.scheduling.workflows import WorkflowTable

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs the extra `ray` and runs these")
pytestmark = [pytest.mark.slow, pytest.mark.model]

TOKEN = "only-for-this-test-of-ray"
MAIN = [sys.executable, "-c", "from agentsys.cli.app import main; main()"]
SMALL = {"AGENTSYS_MODEL__KV_CACHE_MIB": "64", "AGENTSYS_MODEL__THREADS": "1"}
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[tuple[str, psutil.Process]]:
    """The address of a cluster of one machine, and the process that holds all of its others."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # the paths of its sockets must be short
    address = f"127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=4"]
    command += [f"--port={address.partition(':')[2]}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
    command += ["--include-dashboard=false", "--object-store-memory=80000000", "--disable-usage-stats"]
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **LOCAL, **SMALL})
    try:
        wait_until(lambda: b"started" in (folder / "log").read_bytes() or head.poll() is not None)
        assert head.poll() is None, (folder / "log").read_text()
        yield address, psutil.Process(head.pid)
    finally:
        below = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(60)
        _, left = psutil.wait_procs(below, timeout=30)
        for process in left:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, f"left behind: {left}"


def servers_below(head: psutil.Process) -> list[psutil.Process]:
    """Return the model servers that run in the cluster."""
    found = []
    for process in head.children(recursive=True):
        try:
            if "serve" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url.removesuffix('/v1')}/health").is_success
    except httpx.HTTPError:
        return False


async def ask(urls: list[str]) -> list[bool]:
    """Ask twelve questions through a dispatcher; returns of each replica whether it answered any."""
    model = replicated(urls, EngineOptions(api_key=TOKEN), WorkflowTable(), slots=2)
    client = ServingClient({"m": model}, "m")
    sampling = SamplingParams(max_tokens=8, ignore_eos=True)
    prompts = [[Message("user", f"Count from {number}.")] for number in range(12)]
    # The servers listen at the machine's own address, and count as others who learn the prompts.
    requests = [GenerateRequest(prompt, sampling, audience=PUBLIC) for prompt in prompts]
    answers = await asyncio.gather(*(client.generate(request) for request in requests))
    assert all(answer.finish_reason is FinishReason.LENGTH for answer in answers)
    answered = [view.answered > 0 for view in (await client.engine()).replicas()]
    await client.close()
    return answered


def test_servers_on_a_ray_cluster_answer_are_repaired_and_leave_nothing_behind(
    ray_cluster: tuple[str, psutil.Process], smollm2_dir: Path
) -> None:
    address, head = ray_cluster
    command = [*MAIN, "models", "launch", "--count", "2", "--ray", address, "--model", str(smollm2_dir), "--json"]
    environment = {**os.environ, **LOCAL, "AGENTSYS_SERVER__TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as launching:
        try:
            assert launching.stdout is not None
            told = ""
            while not told.endswith("}\n"):
                line = launching.stdout.readline()
                assert line, "the launcher ended"
                told += line
            urls = json.loads(told)["replicas"]
            assert len(set(urls)) == 2
            assert httpx.get(f"{urls[0]}/models").status_code == 401
            assert asyncio.run(ask(urls)) == [True, True]

            victim = servers_below(head)[0]
            victim.send_signal(signal.SIGKILL)
            wait_until(lambda: victim.pid not in [one.pid for one in servers_below(head)])
            wait_until(lambda: len(servers_below(head)) == 2 and all(map(is_up, urls)))
            assert asyncio.run(ask(urls)) == [True, True], "it came back where it was"
        finally:
            launching.send_signal(signal.SIGTERM)
            launching.wait(60)
    assert launching.returncode == 0
    wait_until(lambda: not servers_below(head), 30)
    assert not any(map(is_up, urls))


def test_a_cluster_that_is_not_there_is_told() -> None:
    with pytest.raises(RayMissingError, match="AGS-0467"):
        RayFleet(ServerSpec(), 1, address=f"127.0.0.1:{free_port()}")
