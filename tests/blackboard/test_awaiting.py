"""Futures of commits in an event loop: every answer arrives, errors and cancellations too."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from agentsys.blackboard.awaiting import awaitable, call_when_done


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
