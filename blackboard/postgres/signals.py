"""Wake-ups from other processes: hints that something changed. One that is lost costs time and nothing else."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psycopg

from agentsys.blackboard.postgres.address import OPENING_MARK, Address
from agentsys.blackboard.postgres.connections import RETRY_SECONDS, connect

WAIT_SECONDS: Final = 1.0
MISSED: Final = "missed"
"""Heard whenever listening begins: what was signalled before is not heard any more."""
HEAD: Final = "head"
"""Comes with the number of the newest commit. Every user of the database may signal any: it is a reason to look."""
LONGEST_NUMBER: Final = 19
"""Digits of the largest number of a commit."""


def announced(signal: str) -> int:
    """Return the number of the commit that ``signal`` tells of, true or not, or 0."""
    kind, _, number = signal.partition(":")
    return int(number) if kind == HEAD and number.isdecimal() and len(number) <= LONGEST_NUMBER else 0


class Signals:
    """Calls ``heard`` on a thread of its own with each signal of the board, from construction to :meth:`close`."""

    def __init__(self, address: Address, epoch: int, heard: Callable[[str], None]) -> None:
        """Signals to all come on the channel named as the schema, those to one opening on one with its number."""
        self._address, self._heard = address, heard
        self._channels = (address.schema, f"{address.schema}{OPENING_MARK}{epoch}")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentsys-signals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next signal, or within :data:`WAIT_SECONDS`."""
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=5 * WAIT_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            # Without this thread wake-ups would be lost for good, whatever it was that ended it.
            with suppress(Exception), connect(self._address) as connection:
                self._listen(connection)
            if not self._closed.is_set():
                time.sleep(RETRY_SECONDS)

    def _listen(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        for channel in self._channels:
            connection.execute(f"LISTEN {channel}".encode())
        self._heard(MISSED)
        while not self._closed.is_set():
            for notification in connection.notifies(timeout=WAIT_SECONDS):
                self._heard(notification.payload)
                if self._closed.is_set():
                    return
