"""Runs as background tasks of one event loop: started, watched, cancelled by their identifiers.

The console, the HTTP API, MCP and A2A all start their runs here, so that one process executes a run at most once and
any of them can watch what another started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from agentsys import cancellation, topics
from agentsys.beginning import new_name
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.storage import BoardFull, StorageFailed
from agentsys.errors import BoardError
from agentsys.events import Listener, RunEvent, RunFinished, RunStarted
from agentsys.leases import LeaseLost, RunBusy, is_free, is_untaken
from agentsys.runs import RunRecord, RunResult, UnknownRun
from agentsys.runtime import Runtime

KEPT_EVENTS = 10_000
"""Events of one run that late watchers may still read."""

KEPT_RUNS = 200
"""Ended runs whose events are kept."""

NUMBERS_OF_A_COMMIT = 1 << 20
"""How far the numbers of a resumed run's events move with each commit of the board: more than it tells meanwhile."""

INTERRUPTIONS: Final = (LeaseLost, RunBusy, StorageFailed, BoardFull)
"""What stops a run here that goes on elsewhere, was ended there, or can go on once its record can be written again."""

_log = logging.getLogger(__name__)

NumberedEvent = tuple[int, RunEvent]


class Whereabouts(NamedTuple):
    """Who may go on with a run: ``waiting``, any worker, for it was put on record and none has taken it yet;
    ``elsewhere``, another live process, which executes it.
    """

    waiting: bool = False
    elsewhere: bool = False


@dataclass(slots=True)
class _Watched:
    """One run's task and what it has told so far; ``told`` is the number of its last event, kept or not, and
    ``cancelling`` counts those who are ending the run for good, which its record says only after its task has ended.
    """

    task: asyncio.Task[RunResult] | None = None
    events: deque[NumberedEvent] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    told: int = 0
    cancelling: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, event: RunEvent) -> None:
        self.told += 1
        self.events.append((self.told, event))
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return not self.cancelling and (self.task is None or self.task.done())


class RunSupervisor:
    """Use it from one event loop; close it before the runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._watched: dict[str, _Watched] = {}
        self._tasks: set[asyncio.Task[RunResult]] = set()
        """Those of runs that go on, also of those that have yet to begin."""
        self._beginning: dict[asyncio.Future[None], str] = {}
        """Runs that are begun or taken at this moment, and have told nothing of it yet."""
        self._abandoning: set[asyncio.Task[None]] = set()
        self._followers: list[Callable[[], Awaitable[None]]] = []
        self._closed = False

    async def start(
        self,
        workflow: str,
        input: Any = None,
        *,
        label: Label | None = None,
        deadline: float | None = None,
        run_id: str | None = None,
        origin: Json = None,
    ) -> str:
        """Start a registered workflow and return its run's identifier once its record is committed.

        ``deadline`` is in seconds from now. Raises what :meth:`Runtime.run` raises before it executes anything.
        """

        run = run_id or new_name()

        def execute(listener: Listener) -> Awaitable[RunResult]:
            return self.runtime.run(
                workflow, input, label=label, deadline=deadline, run_id=run, origin=origin, listener=listener
            )

        return await self._launch(run, execute)

    async def resume(self, run: str) -> str:
        """Go on with an interrupted run; a finished one ends at once. Raises what :meth:`Runtime.resume` raises."""
        record = await asyncio.to_thread(RunRecord.load, self.runtime.board, run)
        if self.executing(run):
            raise RunBusy(f"Run {run} is being executed.")
        if record.status != "running":
            return run
        return await self._launch(run, lambda listener: self.runtime.resume(run, listener=listener))

    async def fork(self, run: str, *, at: int | None = None, run_id: str | None = None) -> str:
        """Start a fork of a run and return its identifier. Raises what :meth:`Runtime.fork` raises."""
        copy = run_id or new_name()
        return await self._launch(copy, lambda listener: self.runtime.fork(run, at=at, run_id=copy, listener=listener))

    async def cancel(self, run: str, *, by: str | None = None) -> None:
        """End a run for good. ``by`` is as in :meth:`Runtime.cancel`. Raises :class:`~agentsys.runs.UnknownRun`."""
        # Ended before it had begun, it would be unknown here, or its start would fail, and not be cancelled.
        await self._begun(run)
        watched = self._watched.get(run, _Watched())
        watched.cancelling += 1
        try:
            await self.runtime.cancel(run, by=by)
        finally:
            watched.cancelling -= 1
            watched.wake()

    def abandon(self, run: str, *, by: str) -> None:
        """Begin to end a run for good, which ``by`` waits for no more; :meth:`close` waits until that is done."""
        ending = asyncio.create_task(self._abandoned(run, by))
        self._abandoning.add(ending)
        ending.add_done_callback(self._abandoning.discard)

    async def wait(self, run: str) -> RunResult:
        """Wait until the run's task has ended, and return the run as it then stands.

        Raises :class:`~agentsys.runs.UnknownRun`, and the error that stopped a task before it could record one:
        one of :data:`INTERRUPTIONS` where the run may go on.
        """
        await self._begun(run)
        watched = self._watched.get(run)
        if watched is not None and watched.task is not None:
            await asyncio.wait([watched.task])
            while not watched.ended:
                await watched.changed.wait()
            if not watched.task.cancelled() and (error := watched.task.exception()) is not None:
                raise error
        return RunResult(await asyncio.to_thread(RunRecord.load, self.runtime.board, run))

    @property
    def at_work(self) -> bool:
        """Whether any run goes on here, be it closed or not."""
        return bool(self._tasks)

    def executing(self, run: str) -> bool:
        """Whether this process executes the run at the moment."""
        return run in self._beginning.values() or (run in self._watched and not self._watched[run].ended)

    def whereabouts(self, run: str) -> Whereabouts:
        """Return who may go on with a run that this process does not execute, as the board says at one moment."""
        board = self.runtime.board
        head = board.head
        record, lease = board.get(topics.RUNS, run, at=head), board.get(topics.LEASES, run, at=head)
        if record is None or RunRecord.of(record).status != "running":
            # Whoever brought it to its end has the lease of it still.
            return Whereabouts()
        return Whereabouts(waiting=is_untaken(lease), elsewhere=not is_free(board, lease))

    def events(self, run: str, after: int = 0) -> list[NumberedEvent]:
        """Return the kept events of a run with numbers above ``after``.

        Numbers grow by one from 1, and leap where the run is resumed, above all that any process has told before.
        """
        watched = self._watched.get(run)
        return [] if watched is None else [numbered for numbered in watched.events if numbered[0] > after]

    async def stream(self, run: str, after: int = 0) -> AsyncGenerator[NumberedEvent]:
        """Yield events as they come, until the run's task has ended."""
        watched = self._watched.get(run)
        while watched is not None:
            changed, ended = watched.changed, watched.ended
            for number, event in self.events(run, after):
                after = number
                yield number, event
            if ended:
                return
            await changed.wait()

    def close_with(self, follower: Callable[[], Awaitable[None]]) -> None:
        """Have :meth:`close` end what follows runs, once they are interrupted: it must not outlive the board."""
        self._followers.append(follower)

    async def close(self) -> None:
        """Interrupt every run, also one that just begins, and begin no others.

        Their records stay, and a later process can resume them. What goes on nevertheless is left behind after half a
        minute, and told in the log.
        """
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if ending := {*tasks, *self._abandoning}:
            await asyncio.wait(ending, timeout=cancellation.PATIENCE_SECONDS)
        for task in self._tasks:
            _log.warning(
                "%s goes on although it was interrupted; its code catches asyncio.CancelledError and keeps it",
                task.get_name(),
            )
        for follower in self._followers:
            await follower()

    async def _abandoned(self, run: str, by: str) -> None:
        # One that never began is none, and one that could not be ended now can be taken up and ended later.
        with contextlib.suppress(UnknownRun, BoardError):
            await self.cancel(run, by=by)

    async def _begun(self, run: str) -> None:
        """Wait until a run that is begun or taken at this moment has told of it, or failed to."""
        if beginning := [begun for begun, name in self._beginning.items() if name == run]:
            await asyncio.wait(beginning)

    async def _launch(self, run: str, execute: Callable[[Listener], Awaitable[RunResult]]) -> str:
        if self._closed:
            # A worker beside it would take up again what was given back, and find the model closed.
            raise RunBusy("This process is about to end, and begins no runs.")
        watched = _Watched()
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beginning[begun] = run
        begun.add_done_callback(self._beginning.pop)
        watched.task = asyncio.create_task(self._work(run, watched, begun, execute), name=f"run {run}")
        self._tasks.add(watched.task)
        watched.task.add_done_callback(self._tasks.discard)
        watched.task.add_done_callback(lambda _: watched.wake())
        watched.task.add_done_callback(lambda _: begun.cancel())
        await asyncio.wait([begun])
        if begun.cancelled():
            with contextlib.suppress(asyncio.CancelledError):
                return (await watched.task).run
            raise RunBusy("The run was interrupted before it began.")
        self._forget_oldest()
        return run

    async def _work(
        self,
        run: str,
        watched: _Watched,
        begun: asyncio.Future[None],
        execute: Callable[[Listener], Awaitable[RunResult]],
    ) -> RunResult:
        def listen(event: RunEvent) -> None:
            if isinstance(event, RunStarted):
                if event.resumed and (lease := self.runtime.lease(run)) is not None:
                    # Whoever watched it before it was interrupted, also elsewhere, asks for what comes after that.
                    watched.told = lease.seq * NUMBERS_OF_A_COMMIT
                self._watched[run] = watched
                begun.set_result(None)
            watched.tell(event)

        try:
            return await execute(listen)
        finally:
            # An interrupted run tells nothing itself.
            if begun.done() and not any(isinstance(event, RunFinished) for _, event in watched.events):
                watched.tell(RunFinished(run, "interrupted"))

    def _forget_oldest(self) -> None:
        ended = [run for run, watched in self._watched.items() if watched.ended]
        for run in ended[: max(0, len(ended) - KEPT_RUNS)]:
            del self._watched[run]
