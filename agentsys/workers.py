"""Workers: processes that share the runs of one board. Each takes runs that no live process executes.

Which worker executes a run is no part of its record, so what four began, one, three or seven can end. A worker that
dies frees its own runs and no others; the rest take them as soon as they see it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from agentsys import topics
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardFull, BoardUnreachable, HistoryCompacted, StorageFailed
from agentsys.errors import AgentsysError, BoardError
from agentsys.leases import LeaseLost, RunBusy, is_free
from agentsys.runs import RunRecord, UnknownRun
from agentsys.supervisor import RunSupervisor

POLL_SECONDS: Final = 0.2
"""How soon a run is taken that was enqueued, or whose worker died."""

MOST_RUNS: Final = 16
"""Runs that one worker executes at once, unless it is told otherwise."""

_log = logging.getLogger(__name__)
_RUNS: Final = Predicate(topic=topics.RUNS)
_UNFINISHED: Final = Predicate(topic=topics.RUNS, equals={"status": "running"})


class Worker:
    """Takes the unfinished runs of its supervisor's workflows, at most ``most`` at once, the oldest first."""

    def __init__(
        self, supervisor: RunSupervisor, *, most: int = MOST_RUNS, told: Callable[[RunRecord], None] | None = None
    ) -> None:
        """``told`` hears of each run that is taken."""
        if most < 1:
            raise ValueError(f"a worker needs room for at least one run, got {most}")
        self._supervisor = supervisor
        self._board = supervisor.runtime.board
        self._most = most
        self._told = told
        self._unfinished: dict[str, RunRecord] = {}
        self._seen: int | None = None
        self._executing: dict[str, asyncio.Task[None]] = {}
        self._said = ""
        """Why no run could be taken when that was tried last."""
        self.broken: dict[str, AgentsysError] = {}
        """Runs that could not be executed to an end, such as after a change of their code; they are not tried again."""

    async def serve(self) -> None:
        """Take runs until cancelled, also after times in which the board cannot be read."""
        while True:
            try:
                await self.take_runs()
            except BoardError as error:
                self._say(error)
            await asyncio.sleep(POLL_SECONDS)

    async def drain(self) -> None:
        """Take runs until none is unfinished, here or in another process, save for broken ones.

        While the board cannot be reached, whether one is unfinished is not known.
        """
        while True:
            try:
                if not await self.take_runs():
                    return
            except BoardUnreachable as error:
                self._say(error)
            await asyncio.sleep(POLL_SECONDS)

    async def take_runs(self) -> int:
        """Take as many runs as there is room for; return how many are unfinished, here or in another process."""
        await asyncio.to_thread(self._look)
        self._said = ""
        wanted = [record for record in self._unfinished.values() if record.run not in self.broken]
        for record in sorted(wanted, key=lambda record: record.order):
            if len(self._executing) >= self._most:
                break
            if record.run not in self._executing and await asyncio.to_thread(self._is_free, record.run):
                await self._take(record)
        return len(wanted)

    def _say(self, error: BoardError) -> None:
        """Tell why no run can be taken, once for each reason until one can."""
        if str(error) != self._said:
            self._said = str(error)
            _log.warning("no run can be taken: %s", error)

    async def _take(self, record: RunRecord) -> None:
        try:
            await self._supervisor.resume(record.run)
        except (RunBusy, UnknownRun):
            # Another worker was faster, another face of this process executes it, or it was erased at this moment.
            return
        self._executing[record.run] = asyncio.create_task(self._wait(record.run))
        if self._told is not None:
            self._told(record)

    async def _wait(self, run: str) -> None:
        try:
            await self._supervisor.wait(run)
        except (LeaseLost, RunBusy):
            # It goes on elsewhere.
            return
        except (StorageFailed, BoardFull) as error:
            # It goes on from its record once that can be written again, here or elsewhere.
            _log.warning("run %s was interrupted: %s", run, error)
        except AgentsysError as error:
            self.broken[run] = error
        finally:
            del self._executing[run]

    def _look(self) -> None:
        """Learn which runs of these workflows began and ended since the last look."""
        head = self._board.head
        for entry in self._told_of_runs(head):
            record = RunRecord.left_in(entry)
            if record and record.status == "running" and record.workflow in self._supervisor.runtime.workflows:
                self._unfinished[record.run] = record
            else:
                self._unfinished.pop(entry.key, None)
        self._seen = head

    def _told_of_runs(self, head: int) -> list[Entry]:
        if self._seen is not None:
            try:
                commits = self._board.matching(_RUNS, self._seen, None)
                return [entry for commit in commits for entry in commit.writes if entry.topic == topics.RUNS]
            except HistoryCompacted:
                # It had not looked for long, and of what happened meanwhile only what came of it is left.
                self._unfinished.clear()
        return self._board.query(_UNFINISHED, at=head)

    def _is_free(self, run: str) -> bool:
        return is_free(self._board, self._board.get(topics.LEASES, run))
