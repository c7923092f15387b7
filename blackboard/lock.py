"""The lock that keeps a second process from writing a board. The system releases it when its holder dies."""

import fcntl
import os
import threading
from pathlib import Path
from typing import ClassVar

from agentsys.errors import BoardError


class BoardBusy(BoardError):
    """Another process, or another Board object of this one, has the board open for writing."""

    code = "AGS-0201"
    remedy = "Stop the process named, or open the board read-only."


class WriterLock:
    """Held from construction to :meth:`release`, on a file beside the board that names the holder's process id."""

    # A POSIX record lock is per process, and closing any descriptor of the file gives it up: so a second lock of the
    # same process must be refused before the file is touched.
    _held: ClassVar[set[Path]] = set()
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, board: Path) -> None:
        """Raises :class:`BoardBusy` naming the holder."""
        self._path = board.resolve().with_name(board.name + ".lock")
        with self._guard:
            if self._path in self._held:
                raise BoardBusy(f"{board} is open for writing in this process ({os.getpid()}) already.")
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                os.close(self._descriptor)
                raise BoardBusy(f"{board} is open for writing in process {holder}.") from error
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, str(os.getpid()).encode())
            self._held.add(self._path)

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        with self._guard:
            if self._path in self._held:
                self._held.discard(self._path)
                os.close(self._descriptor)
