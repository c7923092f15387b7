"""One queue for the commits of several processes: the first leads, the others send, and one takes over when it dies."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, Final

from agentsys.blackboard.commit_server import CommitServer, hang_up
from agentsys.blackboard.commits import Commit, CommitRequest
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.database import Durability
from agentsys.blackboard.lock import BoardBusy, BoardLock, Leader
from agentsys.blackboard.sqlite import SqliteStorage, open_reader
from agentsys.blackboard.storage import BoardClosed, CursorState, Maintenance, Reader
from agentsys.errors import BoardError

LINK_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.01
_LOST: Final = (OSError, EOFError, TypeError, AuthenticationError)
"""What a connection raises that ended; a closed one's handle is None by the time ``recv`` looks at it."""


class SharedCommitter:
    """Commits to the board at ``path`` here or in the process that leads. What is under way survives a change of it."""

    def __init__(self, path: Path, durability: Durability, publish: Callable[[Sequence[Commit]], None]) -> None:
        """Raises :class:`BoardBusy` and whatever opening the board raises."""
        self._path, self._durability, self._publish = path, durability, publish
        self._lock = BoardLock(path)
        self._storage: SqliteStorage | None = None
        self._committer: Committer | None = None
        self._server: CommitServer | None = None
        self._connection: Connection | None = None
        self._numbers = itertools.count()
        self._pending: dict[int, tuple[str, tuple[Any, ...], Future[Any]]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        try:
            self._link()
            self.reader: Reader = self._reader()
            self.leads_from_start: bool = self.reader is self._storage
            if not self.leads_from_start:
                threading.Thread(target=self._follow, name="agentsys-follower", daemon=True).start()
            self.epoch: int = self.reader.state().epoch if self.leads_from_start else self._request("epoch").result()
            self._lock.hold(self.epoch)
        except BaseException:
            self._closed = True
            self._disconnect()
            self._lock.release()
            raise

    def submit(self, request: CommitRequest) -> Future[Commit]:
        """Queue ``request``; the future fails with :class:`Conflict` or another :class:`BoardError`."""
        return self._request("commit", request)

    def create_cursor(self, cursor: CursorState) -> Future[CursorState]:
        """Queue the creation of ``cursor``; the future holds what is stored under its name."""
        return self._request("cursor", cursor)

    def maintain(self, step: Maintenance) -> Future[Any]:
        """Queue a step of upkeep; the future holds what came of it."""
        return self._request("maintain", step)

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened the board as ``epoch`` still has it open."""
        return self._lock.alive(epoch)

    def close(self) -> None:
        """Commit what is queued, then let another process lead."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)
            self._closed = True
            self._disconnect()
        if self._server is not None:
            self._server.close()
        if self._committer is not None:
            self._committer.close()
        if self._server is not None:
            self._server.hang_up()
        if self._storage is not None:
            self._storage.close()
        self.reader.close()
        self._lock.release()

    def _reader(self) -> Reader:
        return self._storage if self._storage is not None else open_reader(self._path)

    def _request(self, method: str, *arguments: Any) -> "Future[Any]":
        with self._changed:
            if self._closed:
                raise BoardClosed("The board was closed before this was submitted.")
            if self._committer is not None:
                return _local(self._committer, method, arguments)
            future: Future[Any] = Future()
            number = next(self._numbers)
            self._pending[number] = (method, arguments, future)
            self._send(number, method, arguments)
            return future

    def _send(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        if self._connection is None:
            return
        # The follower sees the same failure, links again and resends what is pending.
        with suppress(OSError):
            self._connection.send((number, method, arguments))

    def _follow(self) -> None:
        """Take the leader's answers; when it is gone, lead or find the new leader, and send again what is pending."""
        while not self._closed:
            connection = self._connection
            try:
                if connection is None:
                    raise EOFError
                number, good, value = connection.recv()
            except _LOST:
                if not self._relink():
                    return
                continue
            self._settle(number, good, value)

    def _relink(self) -> bool:
        """Return whether there is a leader to follow."""
        self._disconnect()
        while not self._closed:
            try:
                with self._changed:
                    self._link()
                    self._resend()
                return self._committer is None
            except BoardError as error:
                for number in list(self._pending):
                    self._settle(number, False, error)
                time.sleep(RETRY_SECONDS)
        return False

    def _resend(self) -> None:
        for number, (method, arguments, future) in list(self._pending.items()):
            if method == "commit":
                # It may be in the log already: the committer then returns that commit.
                arguments = (replace(arguments[0], resubmitted=True),)
            if self._committer is None:
                self._send(number, method, arguments)
            else:
                del self._pending[number]
                _pass_on(_local(self._committer, method, arguments), future)
        self._changed.notify_all()

    def _settle(self, number: int, good: bool, value: Any) -> None:
        with self._changed:
            waiting = self._pending.pop(number, None)
            self._changed.notify_all()
        if waiting is None or not waiting[2].set_running_or_notify_cancel():
            return
        if good:
            waiting[2].set_result(value)
        else:
            waiting[2].set_exception(value)

    def _link(self) -> None:
        """Lead, or connect to the process that does; raises :class:`BoardBusy` if it does not answer."""
        deadline = time.monotonic() + LINK_SECONDS
        while not self._closed:
            if self._lock.try_lead():
                self._lead()
                return
            leader = self._lock.leader()
            try:
                if leader is not None:
                    self._connection = _connect(leader)
                    return
            except _LOST:
                # It died, or is about to serve.
                pass
            if time.monotonic() > deadline:
                raise BoardBusy(f"{self._path} is led by process {leader and leader.pid}, which does not answer.")
            time.sleep(RETRY_SECONDS)

    def _lead(self) -> None:
        try:
            self._storage = SqliteStorage(self._path, self._durability)
            self._committer = Committer(self._storage, self._publish, self._lock.alive)
            self._server = CommitServer(self._path, self._committer)
        except OSError as error:
            self._lock.stop_leading()
            raise BoardBusy(f"{self._path}: the commit socket cannot be served: {error}.") from error
        except BaseException:
            self._lock.stop_leading()
            raise
        self._lock.publish(self._server.leader)

    def _disconnect(self) -> None:
        # Closing and following do this at the same time, and a descriptor closed twice may be another's by then.
        with self._changed:
            connection, self._connection = self._connection, None
        if connection is not None:
            hang_up(connection)


def _local(committer: Committer, method: str, arguments: tuple[Any, ...]) -> "Future[Any]":
    if method == "commit":
        return committer.submit(*arguments)
    if method == "maintain":
        return committer.maintain(*arguments)
    return committer.create_cursor(*arguments) if method == "cursor" else committer.begin_epoch()


def _pass_on(source: "Future[Any]", target: "Future[Any]") -> None:
    def done(source: "Future[Any]") -> None:
        if not target.set_running_or_notify_cancel():
            return
        error = source.exception()
        if error is None:
            target.set_result(source.result())
        else:
            target.set_exception(error)

    source.add_done_callback(done)


def _connect(leader: Leader) -> Connection:
    connection: Connection = Client(leader.address, "AF_UNIX")
    try:
        if not connection.poll(LINK_SECONDS):
            raise TimeoutError(f"process {leader.pid} does not answer")
        answer_challenge(connection, bytes.fromhex(leader.secret))
        deliver_challenge(connection, bytes.fromhex(leader.secret))
    except BaseException:
        connection.close()
        raise
    return connection
