"""The lock file beside a file of boards: who leads it, where to reach that process, and which openings are alive.

One byte is locked by the leader, one more for each opening of a board for writing. The system releases them
when their holder dies, so none of this is ever believed of a dead process.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final

from agentsys.errors import BoardError

LEADER: Final = 0
PROTOCOL: Final = 2
"""Changes with what the leader and the others say to each other."""
EPOCHS: Final = 1_000_000
"""Byte that epoch 0 locks; locks may lie beyond the end of the file."""


class BoardBusy(BoardError):
    """Another Board object of this process has the board open, or the process that leads it does not answer."""

    code = "AGS-0201"
    remedy = "Close the other object, stop the process named, or open the board read-only."


@dataclass(frozen=True, slots=True)
class Leader:
    """Where the leading process takes commits; ``secret`` in hexadecimal."""

    pid: int
    address: str
    secret: str
    protocol: int = 1


class BoardLock:
    """One process's hold on a board's lock file, from construction to :meth:`release`."""

    # A POSIX record lock is per process, and closing any descriptor of the file gives it up: so a second object of the
    # same process must be refused before the file is touched.
    _held: ClassVar[set[Path]] = set()
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, board: Path) -> None:
        """Raises :class:`BoardBusy` if this process has the board open already."""
        # By the file's own name: under each name of a link there would be a leader of its own.
        file = board.resolve()
        self._path = file.with_name(file.name + ".lock")
        self._epochs: set[int] = set()
        with self._guard:
            if self._path in self._held:
                raise BoardBusy(f"{board} is open for writing in this process ({os.getpid()}) already.")
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._held.add(self._path)

    def try_lead(self) -> bool:
        """Become the leader unless another process is."""
        return self._try(fcntl.LOCK_EX, 1, LEADER)

    def publish(self, leader: Leader) -> None:
        """Tell other processes where this one, the leader, takes commits."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(asdict(leader)).encode(), 0)

    def leader(self) -> Leader | None:
        """Return what was published last, possibly by a process that is dead by now."""
        try:
            return Leader(**json.loads(os.pread(self._descriptor, 4096, 0)))
        except (ValueError, TypeError):
            return None

    def is_open_elsewhere(self) -> bool:
        """Whether a process has a board of the file open for writing, also where none leads at this moment."""
        # From the first epoch to the last.
        return not self._try(fcntl.LOCK_EX, 0, EPOCHS)

    def hold(self, epoch: int) -> None:
        """Show for as long as this process lives that ``epoch`` is its own."""
        self._epochs.add(epoch)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, EPOCHS + epoch)

    def let_go(self, epoch: int) -> None:
        """Show no longer that ``epoch`` is alive."""
        self._epochs.discard(epoch)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, EPOCHS + epoch)

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened a board of the file as ``epoch`` still has it open."""
        if epoch in self._epochs:
            # Trying the own lock would give it up.
            return True
        if not self._try(fcntl.LOCK_SH, 1, EPOCHS + epoch):
            return True
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, EPOCHS + epoch)
        return False

    def stop_leading(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, LEADER)

    def release(self) -> None:
        """Give all locks up; a second call does nothing."""
        with self._guard:
            if self._path in self._held:
                self._held.discard(self._path)
                os.close(self._descriptor)

    def _try(self, kind: int, length: int, start: int) -> bool:
        """Take a lock of the system unless another process holds one against it; a ``length`` of 0 has no end."""
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, length, start)
        except BlockingIOError:
            return False
        return True


@contextmanager
def exclusively(board: Path) -> Iterator[None]:
    """Hold the lock of a board's file, as nobody who has it open for writing would let happen.

    Raises :class:`BoardBusy`.
    """
    lock = BoardLock(board)
    try:
        if not lock.try_lead():
            leader = lock.leader()
            raise BoardBusy(f"{board} is open for writing in process {leader.pid if leader else 'unknown'}.")
        if lock.is_open_elsewhere():
            # Its leader has just ended, and one of the others is about to lead.
            raise BoardBusy(f"{board} is open for writing in other processes.")
        yield
    finally:
        lock.release()
