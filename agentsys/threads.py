"""Other people's functions, called from an event loop: a plain one in a thread of its own, which nobody waits for."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

T = TypeVar("T")
TURN_SECONDS: Final = 1.0
"""How much of a time limit passes at most while the event loop is held up."""


async def call_foreign(function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    """Call ``function``, a plain one in a thread of its own. Raises what it raises, and ``RuntimeError`` for an exit.

    One that never returns takes no thread from others and, after its caller gave up, does not keep the process.
    """
    if inspect.iscoroutinefunction(function):
        return await without_exit(function(*arguments, **named))
    outcome: Future[Any] = Future()
    # Else cancelling the caller would cancel it, and the thread could not tell what it came to.
    outcome.set_running_or_notify_cancel()
    call = partial(copy_context().run, function, *arguments, **named)
    name = f"agentsys-{getattr(function, '__name__', 'call')}"
    threading.Thread(target=_tell, args=(call, outcome), name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)


async def without_exit(answer: Awaitable[T]) -> T:
    """Return what ``answer`` comes to. Raises ``RuntimeError`` for an exit, which would end the whole process."""
    try:
        return await answer
    except SystemExit as error:
        raise _as_error(error) from error


async def within(seconds: float, answer: Awaitable[T]) -> T:
    """Return what ``answer`` comes to, or give it up once the event loop has gone round for so long without it.

    A loop that something held up sees what came meanwhile first. Raises ``TimeoutError``.
    """
    task = asyncio.ensure_future(answer)
    try:
        while seconds > 0 and not task.done():
            waited = min(seconds, TURN_SECONDS)
            await asyncio.wait([task], timeout=waited)
            seconds -= waited
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    if task.cancelled() and seconds <= 0:
        raise TimeoutError
    return task.result()


def _tell(call: Callable[[], Any], outcome: Future[Any]) -> None:
    try:
        outcome.set_result(call())
    except (StopIteration, SystemExit) as error:
        outcome.set_exception(_as_error(error))
    except BaseException as error:
        outcome.set_exception(error)


def _as_error(error: StopIteration | SystemExit) -> RuntimeError:
    """Return an error in place of one that no future takes, or that would end the process."""
    return RuntimeError(f"{type(error).__name__}: {error}")
