"""Running one workflow from synchronous code: a script, a notebook cell, a REPL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from agentsys.runs import RunResult
from agentsys.runtime import Runtime
from agentsys.workflow import Workflow, WorkflowFunction

T = TypeVar("T")


def run(
    workflow: Workflow | WorkflowFunction, input: Any = None, *, board: Path | str | None = None, **arguments: Any
) -> RunResult:
    """Open a runtime, execute ``workflow`` once, close the runtime, and return the result.

    ``board`` is a path, by default the settings' one; ``arguments`` are those of :class:`Runtime` (agents, tools,
    policy). To run more than one workflow, open a ``Runtime.local(...)`` and keep it.
    """

    async def once() -> RunResult:
        async with Runtime.local(board, **arguments) as runtime:
            return await runtime.run(workflow, input)

    return _wait_for(once())


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end, in a thread of its own where this one runs an event loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[T | BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, name="agentsys-run")
    thread.start()
    thread.join()
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    return result
