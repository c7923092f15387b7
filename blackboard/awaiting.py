"""Waiting for commits in an event loop: those that one batch answered wake the loop once, not one by one."""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

_T = TypeVar("_T")
_Answer: TypeAlias = "tuple[asyncio.Future[Any], Future[Any]]"

_guard: Final = threading.Lock()
_answers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, deque[_Answer]]] = WeakKeyDictionary()


def awaitable(future: "Future[_T]") -> "asyncio.Future[_T]":
    """Return ``future`` for the running loop, as ``asyncio.wrap_future`` does; cancelling it cancels ``future``."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[_T] = loop.create_future()
    with _guard:
        answers = _answers.setdefault(loop, deque())

    def answered(source: "Future[_T]") -> None:
        with _guard:
            answers.append((waiting, source))
            first = len(answers) == 1
        # Who finds others there is taken along by the wake-up that the first of them asked for.
        if first and not loop.is_closed():
            loop.call_soon_threadsafe(_deliver, answers)

    waiting.add_done_callback(lambda done: future.cancel() if done.cancelled() else None)
    future.add_done_callback(answered)
    return waiting


def _deliver(answers: "deque[_Answer]") -> None:
    with _guard:
        arrived = list(answers)
        answers.clear()
    for waiting, source in arrived:
        if waiting.done():
            continue
        if source.cancelled():
            waiting.cancel()
        elif (error := source.exception()) is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(source.result())
