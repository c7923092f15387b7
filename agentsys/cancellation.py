"""Telling being cancelled from having awaited something that was: both raise the same error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from agentsys.errors import RunError

PATIENCE_SECONDS: float = 30.0
"""How long work that is cancelled may take to end before others go on without it."""


class StrayCancellation(RunError):
    """An agent, a tool or a workflow awaited a task that had been cancelled."""

    code = "AGS-0623"
    remedy = "Catch asyncio.CancelledError where the cancelled task is awaited."


@contextmanager
def stray_cancellation_as_error() -> Iterator[None]:
    """Raise :class:`StrayCancellation` for a ``CancelledError`` that nobody sent to the current task.

    Left as it is, it would pass for an interruption and end the whole run without a record.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise StrayCancellation("A task that was awaited had been cancelled.") from error
