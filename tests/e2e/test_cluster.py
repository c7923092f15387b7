"""A cluster on loopback, processes in place of machines: model servers, dispatchers, workers, a board in PostgreSQL.

A model server or a worker is killed with ``kill -9`` in the middle of runs: every call ends in its answer, nothing is
done twice, and the board verifies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.predicates import Predicate
from agentsys.runs import list_runs
from agentsys.serving.client import ServingClient
from agentsys.serving.launcher import LocalFleet, ServerProcess, ServerSpec
from agentsys.serving.models import EngineOptions, engine_factory
from agentsys.serving.requests import GenerateRequest, Message

# The databases of the board's own tests, and the weights of the engines'.
from tests.blackboard.conftest import postgres_board, postgres_url  # noqa: F401
from tests.serving.conftest import smollm2_dir  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.model]

FLOW = Path(__file__).with_name("cluster_flow.py")
MAIN = [sys.executable, "-c", "from agentsys.cli.app import main; main()"]
SMALL = {"AGENTSYS_MODEL__KV_CACHE_MIB": "64", "AGENTSYS_MODEL__THREADS": "1"}
RUNS = 6
CALLS = 3
Answers = dict[tuple[int, int], str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def fleet(smollm2_dir: Path) -> Iterator[LocalFleet]:  # noqa: F811
    """Two model servers, at addresses that they keep when they are started again."""
    started = LocalFleet([ServerSpec(str(smollm2_dir), port=free_port(), environment=SMALL) for _ in range(2)], pause=0)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
def replicas(fleet: LocalFleet) -> list[ServerProcess]:
    """Both servers, running."""
    fleet.repair()
    return fleet.processes


@pytest.fixture(scope="module")
def expected(fleet: LocalFleet) -> Answers:
    """What the model says to every question, asked of one server, one at a time."""

    async def ask() -> Answers:
        client = ServingClient({"m": engine_factory(fleet.processes[0].url, EngineOptions())}, "m")
        answers = {}
        for number in range(RUNS):
            for call in range(CALLS):
                prompt = [Message("user", flow_module().question(number, call))]
                answers[number, call] = (await client.generate(GenerateRequest(prompt, flow_module().SAMPLING))).text
        await client.close()
        return answers

    return asyncio.run(ask())


def flow_module():
    os.environ.setdefault("CLUSTER_LEDGER", os.devnull)
    from tests.e2e import cluster_flow

    return cluster_flow


@dataclass
class Cluster:
    """What its commands see of it: a board, a ledger, and the model by one or more addresses."""

    board: str
    ledger: Path
    models: list[str]
    stack: ExitStack

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
        first, *others = self.models
        environment = {
            **kept,
            "AGENTSYS_BOARD__URL": self.board,
            "AGENTSYS_MODEL__NAME": first,
            "AGENTSYS_MODEL__REPLICAS": ",".join(others),
            "CLUSTER_LEDGER": str(self.ledger),
            "NO_COLOR": "1",
        }
        process = self.stack.enter_context(
            subprocess.Popen(
                [*MAIN, *arguments],
                cwd=self.ledger.parent,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        self.stack.callback(process.kill)
        return process

    def enqueue(self) -> None:
        for number in range(RUNS):
            ended(self.command("run", str(FLOW), "--input", str(number), "--enqueue"))

    def work(self) -> subprocess.Popen[str]:
        return self.command("work", str(FLOW), "--drain")

    def lines(self) -> list[str]:
        return self.ledger.read_text().splitlines()

    def wait_for_lines(self, count: int) -> None:
        wait_until(lambda: len(self.lines()) >= count)

    def faults(self, expected: Answers) -> list[str]:
        """Return what is missing, wrong or doubled of all runs, after verifying the board."""
        with Board.open_read_only(self.board) as board:
            board.verify()
            records = list_runs(board)
            found = [f"run {one.input} is {one.status}: {one.failure}" for one in records if one.status != "done"]
            values = {one.input: one.value for one in records}
            if values != {number: [expected[number, call] for call in range(CALLS)] for number in range(RUNS)}:
                found.append(f"other answers of runs: {values}")
            notes = {entry.key: (entry.version, entry.value) for entry in board.query(Predicate(topic="answers"))}
            if notes != {f"{number}.{call}": (1, text) for (number, call), text in expected.items()}:
                found.append(f"other answers on the board: {notes}")
            for one in records:
                kinds = Counter(entry.value["kind"] for entry in board.query(Predicate(topic=topics.steps(one.run))))
                if kinds["generate"] != CALLS:
                    found.append(f"run {one.input} has {kinds['generate']} answers on record")
            effects = [effect.state for effect in board.effects()]
        if effects != [EffectState.SUCCEEDED] * (RUNS * CALLS):
            found.append(f"other effects: {effects}")
        noted = Counter(line.split()[0] for line in self.lines())
        if noted != Counter(f"{number}.{call}" for number, call in expected):
            found.append(f"the ledger has {noted}")
        return found


@pytest.fixture
def cluster(postgres_board: str, tmp_path: Path, replicas: list[ServerProcess]) -> Iterator[Cluster]:  # noqa: F811
    ledger = tmp_path / "ledger"
    ledger.touch()
    with ExitStack() as stack:
        yield Cluster(postgres_board, ledger, [one.url for one in replicas], stack)


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def models_of(url: str) -> list[dict]:
    """Return what a model server tells of its models, as ``agentsys models ps`` does."""
    return httpx.get(f"{url.removesuffix('/v1')}/admin/models").json()


@contextmanager
def dispatcher_over(urls: list[str]) -> Iterator[str]:
    """A process that is nothing but a dispatcher over these servers."""
    environment = {"AGENTSYS_MODEL__REPLICAS": ",".join(urls[1:])}
    process = ServerProcess(ServerSpec(urls[0], environment=environment))
    try:
        yield process.start()
    finally:
        process.stop()


def test_the_faults_of_a_cluster_are_told(cluster: Cluster, expected: Answers) -> None:
    cluster.enqueue()
    assert len(cluster.faults(expected)) > RUNS, "nothing was done yet"
    ended(cluster.work())
    assert not (found := cluster.faults(expected)), "\n".join(found)
    cluster.ledger.write_text("\n".join([*cluster.lines(), cluster.lines()[0]]))
    (fault,) = cluster.faults(expected)
    assert "ledger" in fault


@pytest.mark.parametrize("where", ["in the worker", "in a process of its own"])
def test_a_model_server_is_killed_in_the_middle(
    cluster: Cluster, replicas: list[ServerProcess], expected: Answers, where: str
) -> None:
    if where == "in a process of its own":
        cluster.models = [cluster.stack.enter_context(dispatcher_over(cluster.models))]
    cluster.enqueue()
    worker = cluster.work()
    victim = replicas[0]
    wait_until(lambda: len(cluster.lines()) >= 2 and sum(model["open"] for model in models_of(victim.url)) > 0)
    os.kill(victim.pid, signal.SIGKILL)
    ended(worker)
    assert not victim.alive
    assert not (found := cluster.faults(expected)), "\n".join(found)
    if where == "in a process of its own":
        (model,) = models_of(cluster.models[0])
        assert [one["failed"] > 0 for one in model["replicas"]] == [True, False], "it was killed under calls"


def test_another_worker_takes_the_board_over_from_one_that_is_killed(cluster: Cluster, expected: Answers) -> None:
    cluster.enqueue()
    first = cluster.work()
    cluster.wait_for_lines(RUNS)
    kill(first)
    with Board.open_read_only(cluster.board) as board:
        assert any(one.status == "running" for one in list_runs(board)), "it was done before it was killed"
    ended(cluster.work())
    assert not (found := cluster.faults(expected)), "\n".join(found)


def test_of_two_workers_and_two_model_servers_one_each_is_killed(
    cluster: Cluster, replicas: list[ServerProcess], expected: Answers
) -> None:
    cluster.enqueue()
    first, second = cluster.work(), cluster.work()
    cluster.wait_for_lines(RUNS // 2)
    os.kill(replicas[1].pid, signal.SIGKILL)
    kill(first)
    ended(second)
    assert not (found := cluster.faults(expected)), "\n".join(found)
