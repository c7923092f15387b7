"""The runs that one runtime executes at this moment, and the leases under which it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry
from agentsys.errors import BoardError
from agentsys.journal import submit
from agentsys.leases import RunBusy, give_back, is_own


class HeldRuns:
    """Lets a run be executed once at a time in this process, and gives it back where it did not end here."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._tasks: dict[str, asyncio.Task[Any] | None] = {}
        self._leases: dict[str, Entry] = {}

    def task(self, run: str) -> asyncio.Task[Any] | None:
        """Return the task that executes a run, if one does."""
        return self._tasks.get(run)

    def lease(self, run: str) -> Entry | None:
        return self._leases.get(run)

    def keep(self, run: str, lease: Entry) -> None:
        """Know that a run is executed under ``lease``."""
        self._leases[run] = lease

    @asynccontextmanager
    async def executing(self, run: str) -> AsyncIterator[None]:
        """Let nobody else in this process execute the run; if it does not end here, let another process take it.

        Raises :class:`~agentsys.leases.RunBusy`.
        """
        if run in self._tasks:
            raise RunBusy(f"Run {run} is being executed.")
        self._tasks[run] = asyncio.current_task()
        try:
            yield
        except BaseException:
            await self._give_back(run)
            raise
        finally:
            del self._tasks[run]
            self._leases.pop(run, None)

    async def _give_back(self, run: str) -> None:
        with suppress(BoardError):
            # Who was interrupted while the run was taken was not told of the lease.
            lease = self._leases.get(run) or await asyncio.to_thread(self._board.get, topics.LEASES, run)
            if lease is not None and is_own(self._board, lease):
                transaction = self._board.begin("runtime", run=run, at=lease.seq)
                transaction.guard(lease)
                give_back(run, transaction)
                await submit(self._board, transaction)
