"""A cluster on loopback, processes in place of machines: model servers, dispatchers, workers, a board in PostgreSQL.

A model server or a worker is killed with ``kill -9`` in the middle of runs: every call ends in its answer, nothing is
done twice, and the board verifies.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from agentsys.blackboard.board import Board
from agentsys.runs import list_runs
from agentsys.serving.launcher import LocalFleet, ServerProcess, ServerSpec

# The databases of the board's own tests, and the weights of the engines'.
from tests.blackboard.conftest import postgres_board, postgres_url  # noqa: F401
from tests.e2e.cluster import RUNS, SMALL, Answers, Cluster, answers_of, ended, kill, wait_until
from tests.serving.conftest import smollm2_dir  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.model]


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
    """What the model says to every question."""
    return answers_of(fleet.processes[0].url)


@pytest.fixture
def cluster(postgres_board: str, tmp_path: Path, replicas: list[ServerProcess]) -> Iterator[Cluster]:  # noqa: F811
    ledger = tmp_path / "ledger"
    ledger.touch()
    with ExitStack() as stack:
        yield Cluster(postgres_board, ledger, [one.url for one in replicas], stack)


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
