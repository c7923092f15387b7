"""A cluster on hosts of their own: the database, two model servers and two workers reach one another by address alone.

A host is cut off in the middle of runs: frames vanish, and nobody is told. Every operation ends in bounded time, every
call in its answer, nothing is done twice, and the board verifies.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from agentsys.benchmarks.postgres_server import PostgresServer
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import PUBLIC, Label
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.postgres.connections import LONGEST_SECONDS, SILENCE_SECONDS, PostgresDatabase
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import BOARD
from agentsys.blackboard.storage import BoardUnreachable
from agentsys.runs import list_runs
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.serving.models import EngineOptions, replicated
from agentsys.serving.requests import GenerateRequest, Message
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.testing import ScriptedModel
from tests.e2e.cluster import RUNS, SMALL, Answers, Cluster, answers_of, ended, flow_module, taken_from, wait_until
from tests.e2e.hosts import NETWORK, Host, Network, missing, network_of

# The weights of the engines' own tests.
from tests.serving.conftest import smollm2_dir  # noqa: F401

LACKING = missing()
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.skipif(bool(LACKING), reason=LACKING)]

TOKEN = uuid.uuid4().hex
PASSWORD = uuid.uuid4().hex
PORT = 8701
LEASE = 1.0
HANG_SECONDS = 3.0
"""The least silence after which a model server counts as hanging (`docs/cluster.md`)."""
RETURN_SECONDS = 5.0
"""Within how many seconds of its return it is used again."""
SLACK = 5.0
"""Seconds that what was waited for may come late on a busy machine."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with network_of("db", "m1", "m2", "w1", "w2") as made:
        yield made


@pytest.fixture(scope="module")
def database(network: Network) -> Iterator[PostgresServer]:
    """PostgreSQL at its host's address, with a user who has a password, as `docs/deployment.md` says."""
    server = PostgresServer()
    server.admit(f"host agentsys agentsys {NETWORK} scram-sha-256")
    try:
        with network.db.entered() as host:
            server.start(f"-h {host.address} -c fsync=off")
        try:
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(f"CREATE USER agentsys PASSWORD '{PASSWORD}'".encode())
                connection.execute(b"CREATE DATABASE agentsys OWNER agentsys")
            yield server
        finally:
            server.stop()
    finally:
        server.remove()


@pytest.fixture(scope="module")
def models(
    network: Network,
    smollm2_dir: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[str]]:
    """``agentsys models serve`` on two hosts, each at its address, behind a token."""
    hosts, ledger = (network.m1, network.m2), tmp_path_factory.mktemp("models") / "none"
    with ExitStack() as stack:
        given = Cluster("", ledger, [str(smollm2_dir)], stack, SMALL | {"AGENTSYS_SERVER__TOKEN": TOKEN})
        servers = []
        for host in hosts:
            with host.entered():
                servers.append(given.command("models", "serve", "--host", host.address, "--port", str(PORT)))
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("serving"), ended(server)
        yield [f"http://{host.address}:{PORT}/v1" for host in hosts]
        for server in servers:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)


@pytest.fixture(scope="module")
def expected(network: Network, models: list[str]) -> Answers:
    """What the model says to every question, told to a worker's host by one server."""
    with network.w1.entered():
        return answers_of(models[0], TOKEN)


@pytest.fixture
def cluster(network: Network, database: PostgresServer, models: list[str], tmp_path: Path) -> Iterator[Cluster]:
    """Six runs on record, and nobody yet who takes them."""
    ledger, name = tmp_path / "ledger", f"t{uuid.uuid4().hex[:20]}"
    ledger.touch()
    at = f"board={name}&lease={LEASE}"
    told = {"PGPASSWORD": PASSWORD, "AGENTSYS_MODEL__API_KEY": TOKEN}
    board = f"postgresql://agentsys@{network.db.address}/agentsys?{at}"
    read_at = f"{database.url.replace('postgres@/postgres', 'agentsys@/agentsys')}&{at}"
    asyncio.run(enqueue(read_at))
    with ExitStack() as stack:
        yield Cluster(board, ledger, list(models), stack, told, read_at)


async def enqueue(board_at: str) -> None:
    runtime = Runtime(Board.open(board_at), ScriptedModel(str), workflows=[flow_module().workflow])
    for number in range(RUNS):
        await runtime.enqueue("count", number)
    await runtime.close()


def work(cluster: Cluster, host: Host, *options: str) -> subprocess.Popen[str]:
    with host.entered():
        return cluster.work(*options)


@dataclass
class Operation:
    """One operation of a probe: what it was, when it began and how long it took (seconds), what it ended with."""

    kind: str
    began: float
    seconds: float
    error: BaseException | None


class Probe:
    """A thread on a host that does the same again and again, from the moment it is entered to its end."""

    def __init__(self, host: Host, kinds: dict[str, Callable[[], object]]) -> None:
        self.operations: list[Operation] = []
        self._host, self._kinds = host, kinds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def of(self, kind: str, failed: bool = False) -> list[Operation]:
        return [one for one in list(self.operations) if one.kind == kind and (one.error is not None) == failed]

    def _run(self) -> None:
        with self._host.entered():
            for kind in itertools.cycle(self._kinds):
                if self._over.is_set():
                    return
                began, error = time.monotonic(), None
                try:
                    self._kinds[kind]()
                except Exception as raised:
                    error = raised
                self.operations.append(Operation(kind, began, time.monotonic() - began, error))
                time.sleep(0.02)


def with_password(url: str) -> str:
    """Return an address for this process, whose environment has no password."""
    return url.replace("agentsys@", f"agentsys:{PASSWORD}@")


@contextmanager
def board_probe(cluster: Cluster, host: Host) -> Iterator[Probe]:
    """Reads and commits on the cluster's board from a host; in the end, what was acknowledged is there, each once."""
    numbers, topic = itertools.count(1), f"probes/{host.name}"
    with ExitStack() as stack:
        with host.entered():
            board = stack.enter_context(Board.open(with_password(cluster.board)))

        def commit() -> None:
            transaction = board.begin("probe")
            transaction.put(topic, f"{next(numbers):06d}", 1, type="probe")
            board.commit(transaction)

        probe = stack.enter_context(Probe(host, {"commit": commit, "read": lambda: board.get(topic, "000001")}))
        yield probe
    with Board.open_read_only(cluster.read_at) as read:
        entries = read.query(Predicate(topic=topic))
    assert all(entry.version == 1 for entry in entries)
    assert len(probe.of("commit")) <= len(entries) <= next(numbers) - 1


@contextmanager
def model_probe(host: Host, models: list[str], expected: Answers) -> Iterator[tuple[Probe, ServingClient]]:
    """Asks one question again and again, over a dispatcher of its own."""
    loop, prompt = asyncio.new_event_loop(), [Message("user", flow_module().question(0, 0))]
    replicas = replicated(models, EngineOptions(api_key=TOKEN), table := WorkflowTable())
    client = ServingClient({"m": replicas}, "m", workflows=table)

    def ask() -> None:
        request = GenerateRequest(prompt, flow_module().SAMPLING, label=Label(readers=PUBLIC))
        assert loop.run_until_complete(client.generate(request)).text == expected[0, 0]

    with Probe(host, {"ask": ask}) as probe:
        wait_until(lambda: len(probe.operations) > 2)
        yield probe, client
    loop.run_until_complete(client.close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_hosts_reach_one_another_by_address_alone(network: Network, cluster: Cluster, expected: Answers) -> None:
    first, second = work(cluster, network.w1), work(cluster, network.w2)
    ended(first), ended(second)
    assert not (found := cluster.faults(expected)), "\n".join(found)


def test_a_model_host_is_cut_off_and_comes_back(
    network: Network, cluster: Cluster, models: list[str], expected: Answers
) -> None:
    with model_probe(network.w2, models, expected) as (probe, client):
        worker = work(cluster, network.w1)
        cluster.wait_for_lines(2)
        with network.without("m1"):
            began, before = time.monotonic(), len(probe.operations)
            ended(worker)
            wait_until(lambda: len(probe.operations) > before + 2)
        assert not (found := cluster.faults(expected)), "\n".join(found)
        healed = time.monotonic()
        # Whether it then gets a call hangs on which of the two was the faster before.
        wait_until(lambda: client.residents()[0].replicas[0].state == "closed")
        assert time.monotonic() - healed < RETURN_SECONDS + SLACK
    assert not [one for one in probe.operations if one.error]
    assert max(one.seconds for one in probe.operations if one.began + one.seconds > began) < HANG_SECONDS + SLACK


@pytest.mark.parametrize("heals", ["when the other is done", "as soon as the other goes on"])
def test_a_worker_is_cut_off_and_comes_back(network: Network, cluster: Cluster, expected: Answers, heals: str) -> None:
    first = work(cluster, network.w1)
    cluster.wait_for_lines(2)
    with network.without("w1"):
        began = time.monotonic()
        second = work(cluster, network.w2)
        if heals == "when the other is done":
            ended(second)
            # Long enough that connections end, too.
            time.sleep(max(0.0, began + SILENCE_SECONDS + SLACK - time.monotonic()))
            with Board.open_read_only(cluster.read_at) as board:
                head = board.head
        else:
            wait_until(lambda: bool(taken_from(cluster.read_at)))
    ended(first), ended(second)
    assert taken_from(cluster.read_at), "no run went to the other"
    assert not (found := cluster.faults(expected)), "\n".join(found)
    if heals == "when the other is done":
        with Board.open_read_only(cluster.read_at) as board:
            assert board.head == head, "the one that was cut off committed on"


def test_the_database_is_cut_off_for_a_moment(network: Network, cluster: Cluster, expected: Answers) -> None:
    with board_probe(cluster, network.w1) as probe:
        workers = [work(cluster, network.w1), work(cluster, network.w2)]
        cluster.wait_for_lines(2)
        with network.without("db"):
            time.sleep(SILENCE_SECONDS)
        for worker in workers:
            ended(worker)
    assert not (found := cluster.faults(expected)), "\n".join(found)
    assert not [one for one in probe.operations if one.error]
    assert SILENCE_SECONDS - 1 < max(one.seconds for one in probe.operations) < LONGEST_SECONDS


def test_the_database_is_cut_off_for_longer_than_anybody_waits(
    network: Network, cluster: Cluster, expected: Answers
) -> None:
    with board_probe(cluster, network.w1) as commits, board_probe(cluster, network.w2) as reads:
        workers = [work(cluster, host, "--most", "16") for host in (network.w1, network.w2)]
        cluster.wait_for_lines(2)
        with network.without("db"):
            wait_until(lambda: bool(commits.of("commit", failed=True) and reads.of("read", failed=True)))
        wait_until(lambda: all_done(cluster))
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            ended(worker)
    assert not (found := cluster.faults(expected)), "\n".join(found)
    for one in [*commits.operations, *reads.operations]:
        assert one.seconds < LONGEST_SECONDS + SLACK
        assert one.error is None or isinstance(one.error, BoardUnreachable)


def test_a_host_that_vanishes_while_it_holds_the_board_lets_go_of_it(network: Network, cluster: Cluster) -> None:
    with board_probe(cluster, network.w2) as probe, network.w1.entered():
        database = PostgresDatabase(Address.parse(with_password(cluster.board)))
        with suppress(OperationalError), database.writers.begin() as connection:
            connection.execute(select(BOARD.c.head).with_for_update())
            with network.without("w1"):
                wait_until(lambda: any(one.seconds > 1.5 * LEASE for one in probe.of("commit")), LONGEST_SECONDS)
        database.close()
    assert not [one for one in probe.operations if one.error]
    assert max(one.seconds for one in probe.of("commit")) < SILENCE_SECONDS + SLACK


def all_done(cluster: Cluster) -> bool:
    with Board.open_read_only(cluster.read_at) as board:
        return all(one.status != "running" for one in list_runs(board))


def test_a_slow_network_that_loses_frames(network: Network, cluster: Cluster, expected: Answers) -> None:
    with network.slowed(0.02, 0.03):
        first, second = work(cluster, network.w1), work(cluster, network.w2)
        ended(first), ended(second)
    assert network.switch.lost > 0
    assert not (found := cluster.faults(expected)), "\n".join(found)
