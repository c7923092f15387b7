"""The committer: one thread that validates transactions in order of urgency and stores them in groups.

While one group is on its way to the disk the next one gathers, so the cost of a durable write is shared by all that
wait for it, and the log's order is simply the order in which this thread works.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

from agentsys.blackboard.awaiting import answered_together, wake_answered
from agentsys.blackboard.clearance import told_of
from agentsys.blackboard.commits import Commit, CommitRequest, nothing_committed
from agentsys.blackboard.holds import Holds
from agentsys.blackboard.preparation import after, check_remembered, prepare
from agentsys.blackboard.storage import (
    BoardClosed,
    BoardState,
    BoardUnreachable,
    CursorState,
    LogMoved,
    Maintenance,
    PreparedCommit,
    StaleEpoch,
    Storage,
    StorageFailed,
)
from agentsys.blackboard.validation import BatchState
from agentsys.errors import BoardError

MAX_BATCH: Final = 128
GATHER: Final = 0.5
"""For how much of the time that the last batch took to store, the next one waits to become as large."""
_T = TypeVar("_T")


@dataclass(slots=True)
class _Waiting:
    """A request in the queue."""

    request: CommitRequest
    future: Future[Commit]


_Queued: TypeAlias = tuple[float, int, _Waiting]
"""Ordered by urgency (a time: smaller is sooner), then age, of which no two are equal."""


class Committer:
    """Owns the writing side of ``storage`` from construction to :meth:`close`."""

    def __init__(
        self,
        storage: Storage,
        publish: Callable[[Sequence[Commit]], None],
        alive: Callable[[int], bool] | None = None,
    ) -> None:
        """``publish`` is called on the committer's thread after each group is durable, before it is acknowledged.

        ``alive`` says whether the process that opened the board as an epoch still has it open; by default only the
        storage's own is alive.
        """
        self._storage = storage
        self._publish = publish
        self._state: BoardState = storage.state()
        self._alive = alive if alive is not None else lambda epoch: epoch == storage.epoch
        self._ages = itertools.count()
        self._queue: list[_Queued] = []
        self._chores: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._holds = Holds()
        self._parked: list[_Queued] = []
        self._closed = False
        self._expected = 1
        self._storing = 0.0
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="agentsys-committer", daemon=True)
        self._thread.start()

    def submit(self, request: CommitRequest) -> Future[Commit]:
        """Queue ``request``; the future fails with :class:`Conflict` or another :class:`BoardError`."""
        future: Future[Commit] = Future()
        with self._wake:
            self._check_open()
            heapq.heappush(self._queue, (request.urgency, next(self._ages), _Waiting(request, future)))
            # Between the first and the last that are waited for, the thread would only wake to sleep on.
            if len(self._queue) == 1 or len(self._queue) >= self._expected:
                self._wake.notify()
        return future

    def create_cursor(self, cursor: CursorState) -> Future[CursorState]:
        """Queue the creation of ``cursor``; the future holds what is stored under its name."""
        return self._queue_chore(lambda: self._storage.create_cursor(cursor))

    def maintain(self, step: Maintenance) -> Future[Any]:
        """Queue a step of upkeep between two groups of commits."""
        return self._queue_chore(lambda: self._storage.maintain(step))

    def begin_epoch(self) -> Future[int]:
        """Queue the beginning of the next epoch, for another process that opens the board."""
        return self._queue_chore(self._storage.begin_epoch)

    def end_holds(self) -> Future[None]:
        """Queue the end of all holds, after which nothing waits for them."""
        return self._queue_chore(self._end_holds)

    def close(self) -> None:
        """Commit what is queued, then stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _queue_chore(self, chore: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        with self._wake:
            self._check_open()
            self._chores.append((chore, future))
            self._wake.notify()
        return future

    def _check_open(self) -> None:
        if self._closed:
            raise BoardClosed("The board was closed before this was submitted.")

    def _run(self) -> None:
        with answered_together():
            self._work()

    def _work(self) -> None:
        while True:
            if not self._queue:
                wake_answered()
            with self._wake:
                while not (self._queue or self._chores or self._closed):
                    if not self._wake.wait(self._holds.next_end()):
                        self._holds.end_expired()
                        self._unpark()
                if not (self._queue or self._chores or self._parked):
                    return
                self._gather()
                chores, self._chores = self._chores, []
                batch = [heapq.heappop(self._queue) for _ in range(min(MAX_BATCH, len(self._queue)))]
                self._expected = max(1, len(batch))
            for chore, future in chores:
                wake_answered()
                _settle(chore, future)
            admitted = [queued[2] for queued in batch if self._admits(queued)]
            self._commit([member for member in admitted if member.future.set_running_or_notify_cancel()])
            # No generator: the hold of each must end.
            ended = [self._holds.release(member.request.owner) for member in admitted]
            if self._holds.end_expired() or any(ended) or self._closed:
                with self._wake:
                    self._unpark()

    def _gather(self) -> None:
        """Wait, for a part of what storing takes, until as many are there as last time."""
        deadline = time.monotonic() + GATHER * self._storing
        while len(self._queue) < self._expected and not (self._chores or self._closed):
            wake_answered()
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._wake.wait(remaining):
                return

    def _admits(self, queued: _Queued) -> bool:
        """Whether to commit ``queued`` now. One that a hold bars waits; one that asks for a hold gets it instead."""
        member = queued[2]
        if self._holds.bar(member.request) and not self._closed:
            self._parked.append(queued)
            return False
        if not member.request.hold:
            return True
        if member.future.set_running_or_notify_cancel():
            self._holds.take(member.request)
            member.future.set_result(nothing_committed(member.request, self._state.head))
        return False

    def _end_holds(self) -> None:
        self._holds = Holds()
        with self._wake:
            self._unpark()

    def _unpark(self) -> None:
        """Queue again what waited for a hold; what another hold bars will wait again."""
        for queued in self._parked:
            heapq.heappush(self._queue, queued)
        self._parked = []

    def _commit(self, batch: list[_Waiting]) -> None:
        """Store what is valid of ``batch``. If storing fails as a whole, each member gets its own try."""
        if not batch:
            return
        try:
            outcomes = self._store(batch)
        except Exception as error:
            self._recover(batch, error)
            return
        for member, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Commit):
                member.future.set_result(told_of(outcome, member.request))
            else:
                member.future.set_exception(outcome)

    def _recover(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Go on after a failed write: it may have reached the disk all the same, so look before trying again."""
        try:
            stored = self._storage.commits(self._state.head)
        except Exception as unread:
            # Without this thread every later commit would wait for ever.
            stored = []
            if isinstance(error, LogMoved):
                # What was added is unknown: that is what the caller may mend, or another leader decide.
                error = unread
        if stored:
            self._advance(stored)
        behind = isinstance(error, LogMoved) and bool(stored)
        for member in batch:
            if not behind and (len(batch) == 1 or isinstance(error, (StaleEpoch, BoardUnreachable))):
                # No member by itself would fare better under these two.
                member.future.set_exception(_as_board_error(error))
            else:
                self._commit([replace(member, request=replace(member.request, resubmitted=True))])

    def _advance(self, commits: Sequence[Commit]) -> None:
        self._state = after(self._state, commits[-1])
        self._publish(commits)

    def _store(self, batch: Sequence[_Waiting]) -> list[Commit | Exception]:
        """Return what became of each member, once everything accepted is durable."""
        requests = [member.request for member in batch]
        known = self._known(requests)
        state = BatchState(self._storage, requests)
        board = self._state
        accepted: list[PreparedCommit] = []
        outcomes: list[Commit | Exception] = []
        for request in requests:
            if request.tx_id in known:
                outcomes.append(known[request.tx_id])
                continue
            try:
                if request.resubmitted:
                    check_remembered(request, self._storage.state())
                prepared = prepare(request, state, board, self._alive)
            except Exception as error:
                outcomes.append(_as_board_error(error))
                continue
            state.accept(prepared)
            accepted.append(prepared)
            board = after(board, prepared.commit)
            known[request.tx_id] = prepared.commit
            outcomes.append(prepared.commit)
        if accepted:
            self._append(accepted)
        elif any(_newest_known(request) > self._state.head for request in requests):
            # Only a write would show that the log went on beside this committer, which may be all that was wrong.
            self._storage.check_head(self._state.head)
        return outcomes

    def _append(self, accepted: Sequence[PreparedCommit]) -> None:
        start = time.monotonic()
        # Who was answered before works while this is stored, for which the interpreter is hardly needed.
        wake_answered()
        self._storage.append(accepted)
        self._storing = time.monotonic() - start
        self._advance([item.commit for item in accepted])

    def _known(self, requests: Sequence[CommitRequest]) -> dict[str, Commit]:
        """Return, by transaction, what the log has already, and those that change nothing: they come to end a hold."""
        ids = [request.tx_id for request in requests if request.resubmitted]
        found = self._storage.commits(None, tx_ids=ids) if ids else []
        nothing = [nothing_committed(request, request.snapshot) for request in requests if request.changes_nothing]
        return {commit.tx_id: commit for commit in (*found, *nothing)}


def _newest_known(request: CommitRequest) -> int:
    """Return the newest commit of which the request's author knows."""
    read = [entry.seq for entry in request.reads.values() if entry is not None]
    return max([request.snapshot, *read, *[move.to_seq for move in request.cursors]])


def _settle(chore: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(chore())
    except Exception as error:
        future.set_exception(_as_board_error(error))


def _as_board_error(error: Exception) -> Exception:
    """Return ``error`` if the board raised it on purpose, else wrap it: a commit's caller handles board errors."""
    if isinstance(error, BoardError):
        return error
    wrapped = StorageFailed(f"The transaction could not be committed: {type(error).__name__}: {error}.")
    wrapped.__cause__ = error
    return wrapped
