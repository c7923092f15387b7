"""Two writers of one thread never both succeed in silence on our saver; the checks catch it on LangGraph's own."""

import sqlite3
from contextlib import asynccontextmanager, contextmanager

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from agentsys.blackboard.board import Board
from agentsys.langgraph.saver import BlackboardSaver
from tests.langgraph.write_ownership import ASYNC_CHECKS, SYNC_CHECKS


@contextmanager
def on_a_board(tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        yield BlackboardSaver(board)


@asynccontextmanager
async def async_sqlite(tmp_path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        yield saver


@contextmanager
def sqlite_file(tmp_path):
    connection = sqlite3.connect(tmp_path / "checkpoints.db", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


@pytest.mark.parametrize("check", ASYNC_CHECKS, ids=lambda check: check.__name__)
async def test_no_update_is_lost_in_silence(check, tmp_path):
    with on_a_board(tmp_path) as saver:
        await check(saver)


@pytest.mark.parametrize("check", SYNC_CHECKS, ids=lambda check: check.__name__)
def test_no_update_of_threads_is_lost_in_silence(check, tmp_path):
    with on_a_board(tmp_path) as saver:
        check(saver)


@pytest.mark.parametrize("check", ASYNC_CHECKS, ids=lambda check: check.__name__)
async def test_the_async_checks_catch_langgraphs_savers(check, tmp_path):
    with pytest.raises(AssertionError):
        await check(InMemorySaver())
    async with async_sqlite(tmp_path) as saver:
        with pytest.raises(AssertionError):
            await check(saver)


@pytest.mark.parametrize("check", SYNC_CHECKS, ids=lambda check: check.__name__)
def test_the_checks_catch_langgraphs_savers(check, tmp_path):
    with pytest.raises(AssertionError):
        check(InMemorySaver())
    with sqlite_file(tmp_path) as saver, pytest.raises(AssertionError):
        check(saver)
