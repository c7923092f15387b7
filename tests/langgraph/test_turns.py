"""Calls of one turn of the event loop share a commit and fail alone; what a saver remembers is never trusted."""

import asyncio
import contextvars
from concurrent.futures import Future

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from agentsys.blackboard.board import Board
from agentsys.blackboard.storage import BoardClosed
from agentsys.langgraph.ownership import RUNNING, StaleCheckpoint
from agentsys.langgraph.saver import BlackboardSaver
from tests.langgraph.write_ownership import named


@pytest.fixture
def board():
    with Board.open(":memory:") as board:
        yield board


def checkpoint(value):
    return {**empty_checkpoint(), "id": str(uuid6()), "channel_values": {"n": value}, "channel_versions": {"n": value}}


def put(saver, config, value):
    return saver.put(config, checkpoint(value), {"source": "loop", "step": value}, {"n": value})


def aput(saver, config, value):
    return saver.aput(config, checkpoint(value), {"source": "loop", "step": value}, {"n": value})


def start(saver):
    thread = {"configurable": {**named("turns")["configurable"], "checkpoint_ns": ""}}
    return put(saver, thread, 1)


def written(saver, config):
    return {(task, value) for task, _, value in saver.get_tuple(config).pending_writes}


async def test_the_calls_of_one_turn_are_one_commit(board):
    saver = BlackboardSaver(board)
    first = start(saver)
    head = board.head
    *_, second = await asyncio.gather(
        saver.aput_writes(first, [("n", 2)], "one"), saver.aput_writes(first, [("n", 3)], "two"), aput(saver, first, 2)
    )
    assert board.head == head + 1
    assert written(saver, first) == {("one", 2), ("two", 3)}
    assert (
        saver.get_tuple(second).parent_config["configurable"]["checkpoint_id"] == first["configurable"]["checkpoint_id"]
    )


async def test_the_same_tasks_calls_of_one_turn_see_each_other(board):
    saver = BlackboardSaver(board)
    first = start(saver)
    await asyncio.gather(*(saver.aput_writes(first, [("n", value)], "task") for value in (1, 2)))
    assert written(saver, first) == {("task", 1)}


async def test_a_call_that_is_refused_fails_alone(board):
    saver = BlackboardSaver(board)
    first = start(saver)
    second = put(saver, first, 2)
    refused, _ = await asyncio.gather(
        saver.aput_writes(first, [("n", 0)], "late"),
        saver.aput_writes(second, [("n", 3)], "task"),
        return_exceptions=True,
    )
    assert isinstance(refused, StaleCheckpoint)
    assert written(saver, first) == set()
    assert written(saver, second) == {("task", 3)}


async def test_a_call_that_is_cancelled_takes_no_other_along(board):
    saver = BlackboardSaver(board)
    first = start(saver)
    cancelled = asyncio.ensure_future(saver.aput_writes(first, [("n", 0)], "cancelled"))
    other = asyncio.ensure_future(saver.aput_writes(first, [("n", 1)], "task"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    assert cancelled.cancelled()
    assert written(saver, first) == {("task", 1)}


async def test_on_a_closed_board_every_call_fails(board):
    saver = BlackboardSaver(board)
    first = start(saver)
    board.close()
    for failed in await asyncio.gather(
        saver.aput_writes(first, [("n", 1)], "task"), aput(saver, first, 2), return_exceptions=True
    ):
        assert isinstance(failed, BoardClosed)


def test_what_is_remembered_yields_to_what_another_wrote(board):
    one, other = BlackboardSaver(board), BlackboardSaver(board)
    first = start(one)
    second = put(other, first, 2)
    with pytest.raises(StaleCheckpoint):
        put(one, first, 3)
    third = put(one, second, 3)
    read = other.get_tuple({"configurable": {**third["configurable"], "checkpoint_id": None}})
    put(other, read.config, 4)
    assert [found.checkpoint["channel_values"]["n"] for found in one.list(first)] == [1]
    thread = {"configurable": {"thread_id": first["configurable"]["thread_id"]}}
    assert [found.checkpoint["channel_values"]["n"] for found in one.list(thread)] == [4, 3, 2, 1]


def test_a_task_goes_on_with_what_another_process_wrote_for_it(board):
    one, other = BlackboardSaver(board), BlackboardSaver(board)
    first = start(one)
    other.put_writes(first, [("n", 7)], "task")
    one.put_writes(first, [("n", 8), ("n", 9)], "task")
    assert written(one, first) == {("task", 7), ("task", 9)}


def test_a_deleted_thread_begins_anew(board):
    one, other = BlackboardSaver(board), BlackboardSaver(board)
    first = start(one)
    other.delete_thread(first["configurable"]["thread_id"])
    again = put(one, {"configurable": {**first["configurable"], "checkpoint_id": None}}, 5)
    assert one.get_tuple(again).checkpoint["channel_values"] == {"n": 5}
    # In a context of its own: that this was read would count for what later tests write.
    assert contextvars.copy_context().run(one.get_tuple, first) is None


async def test_what_is_asked_for_during_a_commit_shares_the_next_one(board, monkeypatch):
    """As with ``durability="async"``: a task ends during a commit, and the next checkpoint follows that commit."""
    saver = BlackboardSaver(board)
    first = saver.get_tuple(start(saver)).config
    under_way, go_on = asyncio.Event(), Future()
    submit = board.submit

    def submit_later(transaction):
        monkeypatch.setattr(board, "submit", submit)
        under_way.set()
        later = Future()
        go_on.add_done_callback(lambda _: later.set_result(submit(transaction).result()))
        return later

    async def checkpoints():
        return await aput(saver, await aput(saver, first, 2), 3)

    monkeypatch.setattr(board, "submit", submit_later)
    head = board.head
    running = asyncio.ensure_future(checkpoints())
    await under_way.wait()
    writing = asyncio.ensure_future(saver.aput_writes(first, [("n", 1)], "task"))
    await asyncio.sleep(0)
    go_on.set_result(None)
    third, _ = await asyncio.gather(running, writing)
    assert board.head == head + 2
    assert saver.get_tuple(third).checkpoint["channel_values"] == {"n": 3}
    assert written(saver, first) == {("task", 1)}


async def test_a_lineage_goes_on_after_a_commit_that_failed(board, monkeypatch):
    saver = BlackboardSaver(board)
    first = start(saver)
    submit = board.submit

    def fail(transaction):
        monkeypatch.setattr(board, "submit", submit)
        failed = Future()
        failed.set_exception(BoardClosed("Scripted."))
        return failed

    monkeypatch.setattr(board, "submit", fail)
    with pytest.raises(BoardClosed):
        await aput(saver, first, 2)
    await aput(saver, first, 3)
    assert [found.checkpoint["channel_values"]["n"] for found in saver.list(named("turns"))] == [3, 1]


async def test_nobody_is_refused_for_what_was_not_written(board, monkeypatch):
    """Two began an empty thread. A task of the second comes before a task of the first, but after its checkpoint."""
    saver, elsewhere = BlackboardSaver(board), BlackboardSaver(board)
    thread = {"configurable": {**named("turns")["configurable"], "checkpoint_ns": "", RUNNING: None}}
    first, second = Writer(saver, thread), Writer(saver, thread)
    submit = board.submit

    def submit_after_the_checkpoint(transaction):
        monkeypatch.setattr(board, "submit", submit)
        first.does(lambda: elsewhere.put(thread, first.checkpoint, {"source": "input", "step": -1}, {"n": 1}))
        return submit(transaction)

    monkeypatch.setattr(board, "submit", submit_after_the_checkpoint)
    outcomes = await asyncio.gather(
        second.asks(lambda: saver.aput_writes(second.config, [("n", 5)], "of the second")),
        first.asks(lambda: saver.aput_writes(first.config, [("n", 2)], "of the first")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], StaleCheckpoint)
    assert outcomes[1] is None
    assert written(saver, first.config) == {("of the first", 2)}
    assert saver.get_tuple(second.config) is None


class Writer:
    """Who has read a thread, in a context of its own as each run of a graph has one, and has a checkpoint for it."""

    def __init__(self, saver, thread):
        self.context = contextvars.copy_context()
        self.context.run(saver.get_tuple, thread)
        self.checkpoint = checkpoint(1)
        self.config = {"configurable": {**thread["configurable"], "checkpoint_id": self.checkpoint["id"]}}

    def does(self, call):
        return self.context.run(call)

    def asks(self, call):
        return asyncio.get_running_loop().create_task(call(), context=self.context)
