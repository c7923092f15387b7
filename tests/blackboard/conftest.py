"""Boards on both databases. Without PostgreSQL these tests fail: its server comes from PyPI with the extra `dev`."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentsys.benchmarks.postgres_server import PostgresServer, running_server
from agentsys.blackboard.board import Board

LEASE_SECONDS = 1


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server for this session: AGENTSYS_TEST_PG, or one of our own."""
    given = os.environ.get("AGENTSYS_TEST_PG")
    if given is not None:
        yield given
        return
    # What the operating system holds outlives the server, and no test cuts the power.
    with running_server("-c fsync=off") as server:
        yield server.url


def board_at(url: str, name: str, lease: float = LEASE_SECONDS) -> str:
    return f"{url}{'&' if '?' in url else '?'}board={name}&lease={lease}"


@pytest.fixture
def postgres_board(postgres_url: str) -> Iterator[str]:
    """The address of a board that does not exist yet."""
    name = f"t{uuid.uuid4().hex[:20]}"
    yield board_at(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS agentsys_{name} CASCADE")


@pytest.fixture(params=["sqlite", "several", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a board can be created: in a file, in one that has a board already, in PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "board.db")
    if request.param == "several":
        Board.open(tmp_path / "board.db").close()
        return f"{tmp_path / 'board.db'}?board=team"
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
    with running_server() as server:
        yield server
