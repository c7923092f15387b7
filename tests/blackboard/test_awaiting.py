"""Futures of commits in an event loop: every answer arrives, errors and cancellations too."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from agentsys.blackboard.awaiting import answered_together, awaitable, call_when_done, wake_answered
from agentsys.blackboard.board import Board
from agentsys.blackboard.sql_storage import SqlStorage


async def test_all_answers_of_other_threads_arrive():
    sources = [Future() for _ in range(200)]
    waiting = [awaitable(source) for source in sources]
    with ThreadPoolExecutor(4) as pool:
        for number, source in enumerate(sources):
            pool.submit(source.set_result, number)
        assert await asyncio.gather(*waiting) == list(range(200))


async def test_what_is_answered_already_arrives():
    source = Future()
    source.set_result("there")
    assert await awaitable(source) == "there"


async def test_errors_and_cancellations_arrive():
    failed, cancelled = Future(), Future()
    failed.set_exception(ValueError("no"))
    cancelled.cancel()
    with pytest.raises(ValueError, match="no"):
        await awaitable(failed)
    with pytest.raises(asyncio.CancelledError):
        await awaitable(cancelled)


async def test_cancelling_reaches_the_source_and_spares_the_others():
    sources = [Future(), Future()]
    first, second = map(awaitable, sources)
    first.cancel()
    await asyncio.sleep(0)
    assert sources[0].cancelled()
    sources[1].set_result(2)
    assert await second == 2


async def test_a_callback_that_fails_keeps_no_other_from_being_called():
    sources = [Future(), Future()]
    told, called = [], asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    call_when_done(sources[0], lambda source: 1 / 0)
    call_when_done(sources[1], lambda source: called.set())
    for source in sources:
        source.set_result(None)
    await asyncio.wait_for(called.wait(), 60)
    assert isinstance(told[0], ZeroDivisionError)


async def test_what_was_waited_for_is_let_go_of_at_once():
    class Answer:
        pass

    source = Future()
    waiting = awaitable(source)
    source.set_result(Answer())
    kept = weakref.ref(await waiting)
    gc.disable()
    try:
        del source, waiting
        # The loop holds what it is calling.
        await asyncio.sleep(0)
        assert kept() is None
    finally:
        gc.enable()


async def test_a_batch_of_answers_wakes_the_loop_once(monkeypatch):
    loop, woken = asyncio.get_running_loop(), []
    call = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *arguments: (woken.append(1), call(*arguments)))
    sources = [Future() for _ in range(20)]
    waiting = [awaitable(source) for source in sources]
    with answered_together():
        for source in sources:
            source.set_result(1)
        assert not woken
    assert len(woken) == 1
    assert sum(await asyncio.gather(*waiting)) == 20


async def test_loops_can_be_woken_before_the_end():
    sources = [Future(), Future()]
    waiting = [awaitable(source) for source in sources]
    with answered_together():
        for source, one in zip(sources, waiting, strict=True):
            source.set_result(1)
            wake_answered()
            wake_answered()
            assert await one == 1


def test_an_answer_to_a_loop_that_has_ended_harms_nobody():
    async def wait():
        awaitable(source)

    source = Future()
    asyncio.run(wait())
    source.set_result(1)


async def test_a_group_is_answered_while_the_next_is_stored(tmp_path, monkeypatch):
    append, storing, both_asked, answered = SqlStorage.append, *(threading.Event() for _ in range(3))
    heard = []

    def slow(storage, commits):
        storing.set()
        # The first waits until another is queued, that one until the first was answered.
        heard.append((answered if heard else both_asked).wait(10))
        append(storage, commits)

    def written(board, key):
        transaction = board.begin("someone")
        transaction.put("topic", key, 1, type="note")
        return awaitable(board.submit(transaction))

    monkeypatch.setattr(SqlStorage, "append", slow)
    with Board.open(tmp_path / "board.db") as board:
        first = written(board, "first")
        await asyncio.to_thread(storing.wait, 10)
        second = written(board, "second")
        both_asked.set()
        await first
        answered.set()
        await second
    assert heard == [True, True]
