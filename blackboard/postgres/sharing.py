"""One queue for the commits of several machines: the opening that holds the lease leads, the others submit to it."""

import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from agentsys.blackboard.awaiting import answered_together
from agentsys.blackboard.commits import Commit, CommitRequest
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.database import Durability
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.postgres.connections import PATIENCE_SECONDS, RETRY_SECONDS, PostgresDatabase
from agentsys.blackboard.postgres.lease import Lease
from agentsys.blackboard.postgres.queue import CALL, SubmissionQueue, Taken, read, written
from agentsys.blackboard.postgres.signals import HEAD, MISSED, Signals, announced
from agentsys.blackboard.postgres.storage import (
    LeasedReader,
    PostgresStorage,
    create_cursor,
    create_or_upgrade,
    maintain,
)
from agentsys.blackboard.storage import (
    BoardClosed,
    BoardUnreachable,
    CursorState,
    Maintenance,
    StaleEpoch,
    StorageFailed,
)
from agentsys.blackboard.wire import to_text
from agentsys.errors import BoardError

POLL_SECONDS: Final = 0.2
"""How long a lost wake-up can go unnoticed."""
RESEND_SECONDS: Final = 2.0
TIDY_SECONDS: Final = 60.0
NOTIFY_SECONDS: Final = 0.01
"""Wake-ups for new commits are sent, and looked into, at most this often."""
VACANT: Final = "vacant"
_UNDECIDED: Final = (StaleEpoch, BoardUnreachable, BoardClosed)
"""What a leader's request fails with where the next leader shall decide."""


@dataclass(slots=True)
class _Pending:
    request: CommitRequest
    future: "Future[Commit]"


class LeasedCommitter:
    """Commits to the board at ``location`` here or in the process that leads. Requests outlive a change of leader.

    One thread, the courier, renews the lease, carries requests and answers, and takes over where nobody leads.
    """

    def __init__(
        self,
        location: str,
        durability: Durability,
        publish: Callable[[Sequence[Commit]], None],
        learn: Callable[[int], None],
    ) -> None:
        """``publish`` is given commits made here, ``learn`` the number of the newest one made anywhere, if soon."""
        address = Address.parse(location)
        self._database = PostgresDatabase(address, durability)
        self._publish, self._learn = publish, learn
        self._guard = threading.Condition(threading.RLock())
        self._pending: dict[str, _Pending] = {}
        self._unsent: dict[str, None] = {}
        self._answers: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._committer: Committer | None = None
        self._term = ""
        self._broken = False
        self._missed = False
        """Whether commits may have been made of which this opening does not know."""
        self._called = False
        """Whether there are requests, for the one who leads, or answers, for the others."""
        self._closed = self._finished = False
        self._numbers = itertools.count()
        self._wake = threading.Event()
        self._head = self._told_head = self._known = 0
        self._due = dict.fromkeys(("renew", "look", "poll", "resend", "tidy", "notify", "missed"), 0.0)
        with ExitStack() as undone:
            undone.callback(self._database.close)
            create_or_upgrade(self._database)
            self._lease = Lease(self._database)
            self.epoch = self._lease.epoch
            self.reader = LeasedReader(self._database.readers, self._database)
            self._queue = SubmissionQueue(self._database, self.epoch)
            undone.callback(self._queue.close)
            undone.callback(self._stop_leading)
            self._step()
            undone.pop_all()
        self._signals = Signals(address, self.epoch, self._hear)
        self._thread = threading.Thread(target=self._run, name="agentsys-courier", daemon=True)
        self._thread.start()

    def knows_head(self) -> bool:
        """Whether the last commit that ``publish`` or ``learn`` was told of is surely the newest."""
        return self._committer is not None and not self._broken and self._lease.certain

    def submit(self, request: CommitRequest) -> "Future[Commit]":
        """Queue ``request``; the future fails with :class:`Conflict` or another :class:`BoardError`."""
        pending = _Pending(request, Future())
        with self._guard:
            if self._closed:
                raise BoardClosed("The board was closed before this was submitted.")
            name = f"{self.epoch}-{next(self._numbers)}"
            self._pending[name] = pending
            self._dispatch(name)
        return pending.future

    def create_cursor(self, cursor: CursorState) -> "Future[CursorState]":
        """Store ``cursor`` unless its name is taken; the future holds what is stored."""
        done: Future[CursorState] = Future()
        done.set_result(self._database.patiently(lambda: create_cursor(self._database, cursor)))
        return done

    def maintain(self, step: Maintenance) -> "Future[Any]":
        """Do a step of upkeep: the database lets any process, while nobody commits."""
        done: Future[Any] = Future()
        done.set_result(self._database.patiently(lambda: maintain(self._database, step)))
        return done

    def learn(self, head: int) -> None:
        """Take note of commits that were made otherwise than through the leader."""
        self._known = max(self._known, head)
        self._learn(head)

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened the board as ``epoch`` still has it open."""
        return self._database.patiently(lambda: self._lease.alive(epoch))

    @property
    def database(self) -> PostgresDatabase:
        """Where the board is."""
        return self._database

    def close(self) -> None:
        """Commit what is queued, then let another process lead."""
        committer = self._committer
        if committer is not None:
            # They end with this process anyway; what waits for them would be waited for.
            with suppress(BoardClosed):
                committer.end_holds()
        with self._guard:
            self._guard.wait_for(lambda: not self._pending)
            self._closed = True
        self._finished = True
        self._wake.set()
        self._thread.join()
        self._signals.stop()
        with suppress(BoardError):
            self._stop_leading()
            self._flush()
            self._lease.resign()
            self._lease.end()
            self._queue.answer({}, [VACANT])
            self._queue.close()
        self._signals.close()
        self.reader.close()
        self._database.close()

    def _dispatch(self, name: str) -> None:
        """Hand a pending request to the committer of this process, or leave it to the courier."""
        committer = self._committer
        if committer is not None:
            with suppress(BoardClosed):
                inner = committer.submit(self._pending[name].request)
                inner.add_done_callback(lambda inner: self._settle_local(name, inner))
                return
        self._unsent[name] = None
        self._wake.set()

    def _settle_local(self, name: str, inner: "Future[Commit]") -> None:
        error = inner.exception()
        if isinstance(error, _UNDECIDED):
            with self._guard:
                self._broken = True
                self._resubmit(name)
            self._wake.set()
        else:
            self._settle(name, inner.result() if error is None else error)

    def _resubmit(self, name: str) -> None:
        """Let the courier send a request that may have been committed."""
        pending = self._pending.get(name)
        if pending is not None:
            pending.request = replace(pending.request, resubmitted=True)
            self._unsent[name] = None

    def _settle(self, name: str, outcome: Commit | BaseException) -> None:
        with self._guard:
            pending = self._pending.pop(name, None)
            self._unsent.pop(name, None)
            if not self._pending:
                self._guard.notify_all()
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    def _hear(self, signal: str) -> None:
        if signal == VACANT:
            self._due["look"] = 0.0
        elif signal == CALL:
            self._called = True
        elif signal == MISSED or announced(signal) > self._known:
            self._missed = True
        else:
            return
        self._wake.set()

    def _published(self, commits: Sequence[Commit]) -> None:
        self._head = self._known = commits[-1].seq
        self._publish(commits)
        if self._lease.others:
            self._wake.set()

    def _run(self) -> None:
        lost_since: float | None = None
        while not self._finished:
            self._wake.wait(max(0.0, self._next_due() - time.monotonic()))
            self._wake.clear()
            began = time.monotonic()
            try:
                self._step()
                lost_since = None
            except Exception as error:
                # Without this thread every later commit would wait for ever.
                lost_since = lost_since or began
                if time.monotonic() - lost_since > PATIENCE_SECONDS:
                    for name in list(self._pending):
                        self._settle(name, error)
                time.sleep(RETRY_SECONDS)
                self._wake.set()

    def _next_due(self) -> float:
        due = ["renew", "poll"]
        if self._committer is None:
            due.append("look")
        elif self._told_head != self._head:
            due.append("notify")
        if self._missed:
            due.append("missed")
        return min(self._due[what] for what in due)

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due[what]:
            return False
        self._due[what] = now + seconds
        return True

    def _is_called(self) -> bool:
        called, self._called = self._called, False
        return self._is_due("poll", POLL_SECONDS) or called

    def _step(self) -> None:
        """Do once what is to be done."""
        if self._broken:
            self._stop_leading()
            self._due["look"] = 0.0
        if self._is_due("renew", self._database.address.lease / 5) and not self._lease.renew():
            # Others may have led since: a new session makes nothing certain of what the old one knew.
            self._stop_leading()
            self._lease.revive()
        if self._committer is None:
            self._follow()
        if self._committer is not None:
            self._serve()
        if self._missed and self._is_due("missed", NOTIFY_SECONDS):
            self._missed = False
            self.learn(self.reader.state().head)

    def _follow(self) -> None:
        if self._is_due("look", POLL_SECONDS):
            if self._lease.vacant() and self._lease.try_lead():
                self._start_leading()
                return
            self.learn(self.reader.state().head)
        if self._is_called() and self._pending:
            answers = {name: read(answer, "The answer") for name, answer in self._queue.collect().items()}
            # Whoever is answered may go on from that commit without asking for the head.
            self.learn(max((one.seq for one in answers.values() if isinstance(one, Commit)), default=0))
            with answered_together():
                for name, outcome in answers.items():
                    self._settle(name, outcome)
        with self._guard:
            if self._is_due("resend", RESEND_SECONDS):
                # A crash of the server empties the queue.
                for name in self._pending.keys() - self._unsent.keys():
                    self._resubmit(name)
            unsent, self._unsent = self._unsent, {}
            requests = {name: self._pending[name].request for name in unsent if name in self._pending}
        if requests:
            self._send(requests)

    def _send(self, requests: dict[str, CommitRequest]) -> None:
        texts = {name: written(request, "The request") for name, request in requests.items()}
        for name, text in texts.items():
            if isinstance(text, StorageFailed):
                self._settle(name, text)
        try:
            self._queue.submit({name: text for name, text in texts.items() if isinstance(text, str)})
        except BaseException:
            with self._guard:
                for name in requests:
                    self._resubmit(name)
            raise

    def _start_leading(self) -> None:
        storage = PostgresStorage(self._database, self.epoch)
        self._queue.withdraw()
        head = storage.state().head
        with self._guard:
            self._begin_term()
            self._head = self._told_head = head
            self.learn(head)
            self._committer = Committer(storage, self._published, self._lease.alive)
            self.reader.storage = storage
            for name in list(self._pending):
                self._resubmit(name)
                self._dispatch(name)
                self._unsent.pop(name, None)

    def _begin_term(self) -> None:
        """Take up anew what is unanswered; requests and answers of the term before may have been lost on their way."""
        self._term, self._called = uuid.uuid4().hex, True
        self._answers = queue.SimpleQueue()

    def _stop_leading(self) -> None:
        with self._guard:
            committer, self._committer = self._committer, None
            storage, self.reader.storage = self.reader.storage, None
            self._broken = False
            self._told_head = self._head
        if committer is not None:
            committer.close()
        if storage is not None:
            storage.close()

    def _serve(self) -> None:
        committer = self._committer
        assert committer is not None
        try:
            if self._is_called():
                self._take_up(committer, self._queue.take(self._term))
            self._flush()
        except Exception:
            self._begin_term()
            raise
        if self._is_due("tidy", TIDY_SECONDS):
            self._lease.tidy()

    def _take_up(self, committer: Committer, requests: Sequence[Taken]) -> None:
        # All are read before the first is submitted, or the committer would store that one alone.
        readable: list[tuple[str, CommitRequest]] = []
        for taken in requests:
            request = read(taken.request, "The request")
            if isinstance(request, CommitRequest):
                readable.append((taken.id, replace(request, resubmitted=request.resubmitted or taken.before)))
            else:
                self._answers.put((taken.id, request))
        with suppress(BoardClosed):
            for name, request in readable:
                committer.submit(request).add_done_callback(partial(self._answer, name))

    def _answer(self, name: str, inner: "Future[Commit]") -> None:
        error = inner.exception()
        if isinstance(error, _UNDECIDED):
            self._broken = True
        else:
            self._answers.put((name, inner.result() if error is None else error))
        self._wake.set()

    def _flush(self) -> None:
        """Send what the other processes wait for: answers, and the news of commits."""
        answers: dict[str, str] = {}
        with suppress(queue.Empty):
            while True:
                name, outcome = self._answers.get_nowait()
                text = written(outcome, "The answer")
                answers[name] = text if isinstance(text, str) else to_text(text)
        signals = []
        if self._told_head != self._head and self._is_due("notify", NOTIFY_SECONDS):
            self._told_head = self._head
            signals = [f"{HEAD}:{self._head}"] if self._lease.others else []
        if answers or signals:
            self._queue.answer(answers, signals)
