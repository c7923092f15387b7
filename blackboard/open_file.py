"""One process's hold on a file of boards, shared by all of them that it has open: it leads the file, or follows.

The first process leads, the others send it their requests, and one of them takes over when it dies.
"""

import io
import itertools
import os
import pickle
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, ClassVar, Final

from agentsys.blackboard.commit_server import ANSWER, CommitServer, UnreadableMessage, hang_up, receive
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.database import Durability
from agentsys.blackboard.led_file import DURABLE, TOGETHER, LedFile, Listener
from agentsys.blackboard.lock import PROTOCOL, BoardBusy, BoardLock, Leader
from agentsys.blackboard.places import FilePlace
from agentsys.blackboard.sqlite import SqliteStorage
from agentsys.blackboard.storage import BoardClosed, StorageFailed
from agentsys.errors import BoardError

LINK_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.01
_LOST: Final = (OSError, EOFError, TypeError, AuthenticationError)
"""What a connection raises that ended; a closed one's handle is None by the time ``recv`` looks at it."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request that the leader has not answered yet; one about the file names no board."""

    board: str
    method: str
    arguments: tuple[Any, ...]
    future: "Future[Any]"

    def again(self) -> "_Pending":
        """Return the request as it is sent to the next leader: the log may have it already."""
        if self.method == "commit":
            return replace(self, arguments=(replace(self.arguments[0], resubmitted=True),))
        if self.method == TOGETHER:
            parts = [(board, replace(request, resubmitted=True)) for board, request in self.arguments[0]]
            return replace(self, arguments=(parts,))
        return self


class _PlainTexts(pickle.Pickler):
    """Writes texts of the user's own classes, as of an enumeration, as plain ones: the leader need not have those."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, str) and not type(obj).__module__.startswith("agentsys."):
            return str, (str.__str__(obj),)
        return NotImplemented


class OpenFile:
    """Requests to the boards of one file, here or in the process that leads. What is under way outlives the leader."""

    _all: ClassVar[dict[tuple[int, Path], "OpenFile"]] = {}
    """By process, as one that was forked has none of its parent's threads and locks."""
    _registry: ClassVar[threading.Condition] = threading.Condition()

    def __init__(self, path: Path, durability: Durability) -> None:
        """Use :meth:`joined`."""
        self._path = path
        self._durability = durability
        """The most that any opening by this process promises, whoever leads."""
        self._lock = BoardLock(path)
        self._listeners: dict[str, Listener] = {}
        self._taking: set[str] = set()
        """Boards whose requests are taken."""
        self._parting = threading.Lock()
        self._led: LedFile | None = None
        self._server: CommitServer | None = None
        self._connection: Connection | None = None
        self._numbers = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._changed = threading.Condition(threading.RLock())
        self._linked = False
        self._closed = False

    @classmethod
    def joined(cls, place: FilePlace, durability: Durability, listener: Listener) -> "OpenFile":
        """Return this process's hold on the file of ``place``, for that board, too; :meth:`leave` ends it.

        Raises :class:`BoardBusy` if this process has the board open already, or who leads the file does not answer.
        """
        name = os.getpid(), place.path.resolve()
        with cls._registry:
            while (file := cls._all.get(name)) is not None and not file._listeners:
                # The last board is being closed.
                cls._registry.wait()
            if file is None:
                file = cls._all[name] = OpenFile(place.path, durability)
            if place.board in file._listeners:
                raise BoardBusy(f"{place} is open for writing in this process ({os.getpid()}) already.")
            file._listeners[place.board] = listener
        try:
            file._start(place.board, durability)
        except BaseException:
            file.leave(place.board)
            raise
        return file

    def led_board(self, board: str) -> tuple[SqliteStorage | None, bool]:
        """Return a board's storage if this process leads, and whether it was opened just now."""
        with self._changed:
            return (None, False) if self._led is None else self._led.listen(board, self._listeners[board])

    def committer(self, board: str) -> Committer | None:
        """Return what commits to a board, if this process leads."""
        return None if self._led is None else self._led.committer(board)

    def hold(self, epoch: int) -> None:
        """Show for as long as this process lives, or until :meth:`leave`, that ``epoch`` is its own."""
        self._lock.hold(epoch)

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened a board of the file as ``epoch`` still has it open."""
        return self._lock.alive(epoch)

    def request(self, board: str, method: str, *arguments: Any) -> "Future[Any]":
        """Queue a request; the future fails with a :class:`BoardError`."""
        with self._changed:
            self._check_open([board])
            return self._requested(board, method, arguments)

    def request_of_file(self, boards: Iterable[str], method: str, *arguments: Any) -> "Future[Any]":
        """Queue a request about the file, by this process, which has ``boards`` of it open."""
        with self._changed:
            self._check_open(boards)
            return self._requested("", method, arguments)

    def leave(self, board: str, epoch: int | None = None) -> None:
        """Commit what is queued for a board and close it. After the last one, let another process lead."""
        with self._changed:
            self._changed.wait_for(lambda: not any(item.board in (board, "") for item in self._pending.values()))
            self._taking.discard(board)
        with self._parting:
            with self._registry:
                last = self._listeners.keys() == {board}
                if last:
                    del self._listeners[board]
            try:
                if last:
                    self._close()
                elif self._led is not None:
                    self._led.release(board)
                if epoch is not None and not last:
                    self._lock.let_go(epoch)
            finally:
                # Whoever opens the board again waits for this.
                with self._registry:
                    self._listeners.pop(board, None)
                    if last:
                        del self._all[os.getpid(), self._path.resolve()]
                    self._registry.notify_all()

    def _start(self, board: str, durability: Durability) -> None:
        with self._changed:
            self._taking.add(board)
            promises_more = durability == "full" and self._durability != "full"
            if promises_more:
                self._durability = durability
            if not self._linked:
                self._link()
                self._linked = True
                if self._led is None:
                    threading.Thread(target=self._follow, name="agentsys-follower", daemon=True).start()
                return
            if not promises_more:
                return
            asked = self._requested(board, DURABLE, ())
        asked.result()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._disconnect()
        with ExitStack() as steps:
            # From the last to the first, whichever of them fails.
            steps.callback(self._lock.release)
            if self._led is not None:
                steps.callback(self._led.close)
            if self._server is not None:
                steps.callback(self._server.hang_up)
            if self._led is not None:
                steps.callback(self._led.stop)
            if self._server is not None:
                steps.callback(self._server.close)

    def _check_open(self, boards: Iterable[str]) -> None:
        if not self._taking.issuperset(boards):
            raise BoardClosed("The board was closed before this was submitted.")

    def _requested(self, board: str, method: str, arguments: tuple[Any, ...]) -> "Future[Any]":
        if self._led is not None:
            return self._led.call(board, method, arguments)
        asked = _Pending(board, method, arguments, Future())
        number = next(self._numbers)
        try:
            self._send(number, asked)
        except Exception as error:
            # Nobody would answer it, and closing waits for what is not answered.
            what = f"{type(error).__name__}: {error}"
            raise StorageFailed(f"The request cannot be sent to the process that leads: {what}.") from error
        self._pending[number] = asked
        return asked.future

    def _send(self, number: int, asked: _Pending) -> None:
        message = io.BytesIO()
        _PlainTexts(message).dump((number, asked.board, asked.method, asked.arguments))
        if self._connection is None:
            return
        # The follower sees the same failure, links again and resends what is pending.
        with suppress(OSError):
            self._connection.send_bytes(message.getbuffer())

    def _follow(self) -> None:
        """Take the leader's answers; when it is gone, lead or find the new leader, and send again what is pending."""
        while not self._closed:
            connection = self._connection
            try:
                if connection is None:
                    raise EOFError
                number, good, value = receive(connection, ANSWER)
            except UnreadableMessage as error:
                # Asked again, it would come again.
                what = StorageFailed(f"What became of the request cannot be read: {error}.")
                number, good, value = error.number, False, what
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
                return self._led is None
            except BoardError as error:
                for number in list(self._pending):
                    self._settle(number, False, error)
                time.sleep(RETRY_SECONDS)
        return False

    def _resend(self) -> None:
        for number, asked in list(self._pending.items()):
            again = asked.again()
            if self._led is None:
                self._send(number, again)
                continue
            try:
                _pass_on(self._led.call(again.board, again.method, again.arguments), asked.future)
                del self._pending[number]
            except BoardError as error:
                self._settle(number, False, error)
        self._changed.notify_all()

    def _settle(self, number: int, good: bool, value: Any) -> None:
        with self._changed:
            waiting = self._pending.pop(number, None)
            self._changed.notify_all()
        if waiting is None or not waiting.future.set_running_or_notify_cancel():
            return
        if good:
            waiting.future.set_result(value)
        else:
            waiting.future.set_exception(value)

    def _link(self) -> None:
        """Lead, or connect to the process that does; raises :class:`BoardBusy` if it does not answer."""
        deadline = time.monotonic() + LINK_SECONDS
        while not self._closed:
            if self._lock.try_lead():
                self._lead()
                return
            leader = self._lock.leader()
            try:
                if leader is not None and leader.protocol == PROTOCOL:
                    self._connection = _connect(leader)
                    self._ask_for_durability()
                    return
            except _LOST:
                # It died, or is about to serve.
                pass
            if time.monotonic() > deadline:
                raise BoardBusy(
                    f"{self._path} is led by process {leader and leader.pid}, which does not answer or is of another "
                    "version of agentsys."
                )
            time.sleep(RETRY_SECONDS)

    def _ask_for_durability(self) -> None:
        """Tell a leader what this process promised, before whatever relies on it."""
        board = next(iter(self._taking), None)
        if board is not None and self._durability == "full":
            # A leader of before takes this for an opening of the board, which it counts.
            self._send(next(self._numbers), _Pending(board, DURABLE, (), Future()))

    def _lead(self) -> None:
        with ExitStack() as undone:
            undone.callback(self._lock.stop_leading)
            led = LedFile(self._path, self._durability, self._lock.alive)
            undone.callback(led.close)
            undone.callback(led.stop)
            try:
                server = CommitServer(self._path, led)
                undone.callback(server.hang_up)
                undone.callback(server.close)
                self._lock.publish(server.leader)
            except OSError as error:
                raise BoardBusy(f"{self._path}: the commit socket cannot be served: {error}.") from error
            undone.pop_all()
        self._led, self._server = led, server

    def _disconnect(self) -> None:
        # Closing and following do this at the same time, and a descriptor closed twice may be another's by then.
        with self._changed:
            connection, self._connection = self._connection, None
        if connection is not None:
            hang_up(connection)


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
