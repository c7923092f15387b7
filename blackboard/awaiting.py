"""Waiting for commits in an event loop: those that one batch answered wake the loop once, not one by one."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_of_thread: Final = threading.local()


def awaitable(future: "Future[_T]") -> "asyncio.Future[_T]":
    """Return ``future`` for the running loop, as ``asyncio.wrap_future`` does; cancelling it cancels ``future``."""
    waiting = _Waiting(future)
    call_when_done(future, waiting.take)
    return waiting


def call_when_done(future: "Future[_T]", callback: "Callable[[Future[_T]], object]") -> None:
    """Call ``callback`` with ``future`` in the running loop once it is done."""
    loop = asyncio.get_running_loop()
    answers: _Answers | None = getattr(_of_thread, "answers", None)
    if answers is None or answers.loop is not loop:
        answers = _of_thread.answers = _Answers(loop)
    future.add_done_callback(partial(answers.add, callback))


@contextmanager
def answered_together() -> Iterator[None]:
    """Wake event loops only at the end or by :func:`wake_answered`, however many futures this thread answers before.

    A loop that wakes at the first answer competes for the interpreter with the thread that still has others to give.
    """
    _of_thread.asleep = []
    try:
        yield
    finally:
        wake_answered()
        del _of_thread.asleep


def wake_answered() -> None:
    """Wake the event loops for which this thread has answers: it will not need the interpreter for a while."""
    asleep: list[_Answers] = getattr(_of_thread, "asleep", [])
    while asleep:
        asleep.pop().wake()


class _Waiting(asyncio.Future[Any]):
    """The loop's side of a future that another thread answers."""

    def __init__(self, source: "Future[Any]") -> None:
        super().__init__()
        self._source: Future[Any] | None = source

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self._source is not None:
            self._source.cancel()
        return cancelled

    def take(self, source: "Future[Any]") -> None:
        """Take over what ``source`` came to."""
        # It holds this in turn, and such circles only the collector opens.
        self._source = None
        if self.done():
            return
        try:
            result = source.result()
        except CancelledError:
            super().cancel()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)


class _Answers:
    """Futures that were answered and whose callbacks one event loop has still to call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[Callable[[Future[Any]], object], Future[Any]]] = deque()
        self._woken = False

    def add(self, callback: "Callable[[Future[Any]], object]", source: "Future[Any]") -> None:
        """Have the loop call ``callback`` with ``source``; for any thread."""
        self._arrived.append((callback, source))
        # Who finds the loop woken is taken along: it looks only after it has said that it will.
        if self._woken:
            return
        self._woken = True
        asleep: list[_Answers] | None = getattr(_of_thread, "asleep", None)
        if asleep is None:
            self.wake()
        else:
            asleep.append(self)

    def wake(self) -> None:
        # A closed loop waits for nothing, and may have been closed just now.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        for _ in range(len(self._arrived)):
            callback, source = self._arrived.popleft()
            try:
                callback(source)
            except Exception as error:
                # The others shall be called all the same.
                context = {"message": "a commit's callback", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
