"""Leases of snapshots: while one is held, no compaction drops the states from its snapshot on."""

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from agentsys.blackboard import upkeep
from agentsys.blackboard.storage import BoardClosed, Maintenance
from agentsys.blackboard.upkeep import EndLease, TakeLease
from agentsys.errors import BoardError

SHORTEST_SECONDS: Final = 0.1
"""For how long a lease is taken at least: each one writes three times meanwhile to renew it."""


class SnapshotLease:
    """Holds the states from ``snapshot`` on, until it is closed. Its process renews it; after its death it expires."""

    def __init__(self, maintain: Callable[[Maintenance], Any], snapshot: int, seconds: float) -> None:
        """Use :meth:`Board.lease`."""
        if not seconds >= SHORTEST_SECONDS:
            raise ValueError(f"a lease is for {SHORTEST_SECONDS} seconds or more, got {seconds}; it is renewed in time")
        self.snapshot = snapshot
        self._take = TakeLease(uuid.uuid4().hex, snapshot, seconds)
        self._maintain = maintain
        self._ended = threading.Event()
        maintain(self._take)
        self._thread = threading.Thread(target=self._renew, name="agentsys-lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the states go; a second call does nothing."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            # Where the board was closed or cannot be reached, the lease expires.
            with suppress(BoardError):
                self._maintain(EndLease(self._take.id))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _renew(self) -> None:
        while not self._ended.wait(min(self._take.seconds, upkeep.LONGEST_LEASE_SECONDS) / 3):
            try:
                self._maintain(self._take)
            except BoardClosed:
                return
            except BoardError:
                # What fails now may succeed the next time; whoever reads a state that is gone is told.
                continue
