"""The leader's end of the commit socket: takes sealed requests of other processes into the one queue."""

import io
import os
import pickle
import queue
import secrets
import shutil
import socket
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import fields, is_dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, Final

from agentsys.blackboard.led_file import LedFile
from agentsys.blackboard.lock import PROTOCOL, Leader
from agentsys.blackboard.storage import BoardClosed, StorageFailed

LONGEST_ADDRESS: Final = 100
"""Bytes; the system's limit for the address of a local socket is 108 on Linux and 104 elsewhere."""

ACCEPT_SECONDS: Final = 0.05
"""How long the server waits after it could not let anybody in."""

REQUEST: Final = (int, str, str, tuple)
"""Its number, the board, the method, the arguments."""

ANSWER: Final = (int, bool, object)
"""The number of the request, whether it came to something, and what."""

NOBODYS: Final = -1
"""The number of a message that does not tell its own."""


class CommitServer:
    """Serves the boards of a file to other processes of this user, from construction to :meth:`close`."""

    def __init__(self, path: Path, led: LedFile) -> None:
        self._led = led
        self._secret = secrets.token_bytes(32)
        self._folder: str | None = None
        address = f"{path.resolve()}.sock"
        if len(os.fsencode(address)) > LONGEST_ADDRESS:
            self._folder = tempfile.mkdtemp(prefix="agentsys-")
            address = f"{self._folder}/sock"
        # Only the leader comes here, so what lies there belongs to a dead one.
        Path(address).unlink(missing_ok=True)
        self._listener = Listener(address, "AF_UNIX", backlog=64)
        Path(address).chmod(0o600)
        self.leader = Leader(os.getpid(), address, self._secret.hex(), PROTOCOL)
        self._closed = False
        self._peers: set[_Peer] = set()
        self._guard = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name="agentsys-commit-server", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Stop taking requests. Those taken are answered once the committer was closed and :meth:`hang_up` called."""
        self._closed = True
        with suppress(OSError):
            # Closing a socket does not wake the thread that waits on it; a visitor does.
            Client(self.leader.address, "AF_UNIX").close()
        self._accepting.join(timeout=5.0)
        with suppress(OSError):
            # The socket's name may be gone, with its folder or by who tidied up.
            self._listener.close()

    def hang_up(self) -> None:
        """Send what is left to send and end every connection."""
        with self._guard:
            peers = list(self._peers)
        for peer in peers:
            peer.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except OSError:
                # As where the process has no descriptor left: whoever comes waits until it has.
                time.sleep(ACCEPT_SECONDS)
                continue
            # Each in a thread of its own: one that stalls must not keep others out.
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            deliver_challenge(connection, self._secret)
            answer_challenge(connection, self._secret)
        except (OSError, EOFError, AuthenticationError):
            connection.close()
            return
        peer = _Peer(connection)
        with self._guard:
            self._peers.add(peer)
        try:
            while True:
                peer.answer(*self._answered(connection))
        except (OSError, EOFError, TypeError):
            # A closed connection's handle is None by the time recv looks at it.
            peer.close()
        finally:
            with self._guard:
                self._peers.discard(peer)

    def _answered(self, connection: Connection) -> "tuple[int, Future[Any]]":
        """Return the number of the next request, and the future of what it comes to."""
        try:
            number, board, method, arguments = receive(connection, REQUEST)
        except UnreadableMessage as error:
            return error.number, _failed(StorageFailed(f"The process that leads cannot read the request: {error}."))
        if not all(map(_is_whole, arguments)):
            return number, _failed(StorageFailed(f"The process that leads misses something in the request {method!r}."))
        return number, self._call(board, method, arguments)

    def _call(self, board: str, method: str, arguments: tuple[Any, ...]) -> "Future[Any]":
        try:
            return self._led.call(board, method, arguments)
        except BoardClosed as error:
            # Not an answer: the peer shall ask the next leader.
            raise EOFError from error
        except Exception as error:
            return _failed(error)


class _Peer:
    """One connected process. Answers leave by a thread of their own: a stalled peer must not stop the committer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closing = threading.Lock()
        self._outbox: queue.SimpleQueue[tuple[int, bool, Any] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def answer(self, number: int, future: "Future[Any]") -> None:
        """Send what becomes of ``future`` as the answer to request ``number``."""

        def done(future: "Future[Any]") -> None:
            error = future.exception()
            self._outbox.put((number, False, error) if error is not None else (number, True, future.result()))

        future.add_done_callback(done)

    def close(self) -> None:
        """Send what is left and end the connection; its own thread and the server's may both ask for it."""
        with self._closing:
            if not self._connection.closed:
                self._outbox.put(None)
                self._sender.join(timeout=5.0)
                hang_up(self._connection)

    def _send(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:
                return
            except Exception as error:
                failed = StorageFailed(f"The answer could not be sent: {type(error).__name__}: {error}.")
                self._connection.send((message[0], False, failed))


def hang_up(connection: Connection) -> None:
    """End ``connection`` for both sides, also for a thread that waits on it."""
    with suppress(OSError), socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as handle:
        handle.shutdown(socket.SHUT_RDWR)
    connection.close()


class UnreadableMessage(Exception):
    """A message came through, of which something is unknown here: the other side may be another version."""

    def __init__(self, number: int, reason: Exception) -> None:
        super().__init__(f"{type(reason).__name__}: {reason}")
        self.number = number


def receive(connection: Connection, parts: tuple[type, ...]) -> tuple[Any, ...]:
    """Return the next message, of a number and what else ``parts`` says. Raises :class:`UnreadableMessage`."""
    message = connection.recv_bytes()
    try:
        content: tuple[Any, ...] = pickle.loads(message)  # noqa: S301
        if len(content) != len(parts) or not all(map(isinstance, content, parts)):
            raise ValueError("it has other parts")
    except Exception as error:
        raise UnreadableMessage(_number_of(message), error) from error
    return content


def _number_of(message: bytes) -> int:
    try:
        (number, *_) = _Outlines(io.BytesIO(message)).load()
    except Exception:
        return NOBODYS
    return number if isinstance(number, int) else NOBODYS


def _is_whole(argument: object) -> bool:
    """Whether a record has all that is known of it here: another version may have sent fewer of its fields."""
    return not is_dataclass(argument) or all(hasattr(argument, field.name) for field in fields(argument))


class _Outlines(pickle.Unpickler):
    """Reads numbers and plain texts, and of all else no more than that it is there."""

    def find_class(self, module: str, name: str, /) -> Any:
        return _Unknown


class _Unknown:
    def __new__(cls, *_: object, **__: object) -> "_Unknown":
        return super().__new__(cls)

    def _forget(self, *_: object) -> None:
        """Take what an object, a list, a set or a mapping is filled with, and keep nothing of it."""

    __setstate__ = append = extend = add = __setitem__ = _forget


def _failed(error: Exception) -> "Future[Any]":
    failed: Future[Any] = Future()
    failed.set_exception(error)
    return failed
