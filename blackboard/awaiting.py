"""Waiting for commits in an event loop: those that one batch answered wake the loop once, not one by one."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

_T = TypeVar("_T")
_Answer: TypeAlias = "tuple[Callable[[Future[Any]], object], Future[Any]]"

_guard: Final = threading.Lock()
_batch: Final = threading.local()
_answers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, deque[_Answer]]] = WeakKeyDictionary()


def awaitable(future: "Future[_T]") -> "asyncio.Future[_T]":
    """Return ``future`` for the running loop, as ``asyncio.wrap_future`` does; cancelling it cancels ``future``."""
    waiting: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    waiting.add_done_callback(lambda done: future.cancel() if done.cancelled() else None)
    call_when_done(future, lambda source: _copy(source, waiting))
    return waiting


def call_when_done(future: "Future[_T]", callback: "Callable[[Future[_T]], object]") -> None:
    """Call ``callback`` with ``future`` in the running loop once it is done."""
    loop = asyncio.get_running_loop()
    with _guard:
        answers = _answers.setdefault(loop, deque())

    def answered(source: "Future[_T]") -> None:
        with _guard:
            answers.append((callback, source))
            first = len(answers) == 1
        # Who finds others there is taken along by the wake-up that the first of them asked for.
        if first:
            asleep: list[asyncio.AbstractEventLoop] | None = getattr(_batch, "asleep", None)
            if asleep is None:
                _wake(loop)
            else:
                asleep.append(loop)

    future.add_done_callback(answered)


@contextmanager
def answered_together() -> Iterator[None]:
    """Wake event loops only at the end, however many futures this thread answers until then.

    A loop that wakes at the first answer competes for the interpreter with the thread that still has others to give.
    """
    asleep = _batch.asleep = []
    try:
        yield
    finally:
        del _batch.asleep
        for loop in asleep:
            _wake(loop)


def _wake(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(_deliver, loop)


def _deliver(loop: asyncio.AbstractEventLoop) -> None:
    answers = _answers[loop]
    with _guard:
        arrived = list(answers)
        answers.clear()
    for callback, source in arrived:
        try:
            callback(source)
        except Exception as error:
            # The others shall be called all the same.
            asyncio.get_running_loop().call_exception_handler({"message": "a commit's callback", "exception": error})


def _copy(source: "Future[_T]", waiting: "asyncio.Future[_T]") -> None:
    if waiting.done():
        return
    if source.cancelled():
        waiting.cancel()
    elif (error := source.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(source.result())
