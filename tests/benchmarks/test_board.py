"""The board's benchmark counts what it says: raw SQLite stores the same rows, and the savers' states are read back."""

import asyncio

import pytest

from agentsys.benchmarks import board, board_team
from agentsys.benchmarks.board_graph import MEMORY, supersteps
from agentsys.benchmarks.board_load import agents_on, raw_seconds
from agentsys.benchmarks.board_peer import walk
from agentsys.benchmarks.board_savers import postgres_arms, sqlite_arms, steps_a_second
from agentsys.benchmarks.harness import Options
from agentsys.benchmarks.postgres_server import running_server
from agentsys.blackboard.board import Board
from agentsys.errors import ConfigurationError


def test_raw_sqlite_stores_what_the_board_stored(tmp_path):
    load = agents_on(str(tmp_path / "board.db"), 4, 0.2)
    assert raw_seconds(tmp_path / "raw.db", load.batches) > 0
    with Board.open_read_only(tmp_path / "board.db") as one, Board.open_read_only(tmp_path / "raw.db") as other:
        assert one.log() == other.log()
        assert load.commits + 1 == one.head == other.head == one.verify()


def test_jains_index_tells_equal_shares_from_one_who_has_all():
    assert board_team.jain([5, 5, 5, 5]) == 1
    assert board_team.jain([20, 0, 0, 0]) == 0.25
    assert board_team.jain([0, 0]) == 0


@pytest.fixture(scope="module")
def server():
    with running_server("-c fsync=off") as server:
        yield server.url


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_saver_reads_back_what_was_put(database, number, server, tmp_path):
    arm = (sqlite_arms(tmp_path) if database == "sqlite" else postgres_arms(server))[number]
    place = arm.place()

    async def steps():
        async with arm.opened(place) as saver:
            await walk(saver, "thread", 5)

    asyncio.run(steps())
    assert arm.size(place) > 10_000


@pytest.mark.parametrize("number", [0, 1])
def test_a_whole_graph_runs_over_every_saver(number, tmp_path):
    assert steps_a_second(sqlite_arms(tmp_path)[number], 2, 3, supersteps)() > 0
    assert steps_a_second(MEMORY, 1, 3, supersteps)() > 0


def test_idle_subscribers_are_there_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(board_team, "SUBSCRIBERS", 5)
    load = agents_on(str(tmp_path / "board.db"), 2, 0.1, beside=board_team.idle_subscribers)
    assert load.commits > 0


def test_an_unknown_peer_is_refused():
    with pytest.raises(ConfigurationError):
        board.main(Options(arguments={"peer": "nobody"}))
