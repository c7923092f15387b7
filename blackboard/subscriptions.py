"""Durable subscriptions: a named position in the log that moves only together with its consumer's own writes."""

import time
from contextlib import AbstractContextManager
from typing import Protocol

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import CursorState
from agentsys.errors import BoardError


class SubscriptionMismatch(BoardError):
    """A subscription exists under this name with another predicate, or was removed."""

    code = "AGS-0215"
    remedy = "Use the predicate it was created with, or another name."


class Changed(Protocol):
    """A signal that something may have changed."""

    def clear(self) -> None:
        """Forget what was signalled."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the signal; ``timeout`` in seconds."""


class Feed(Protocol):
    """What a subscription needs of its board."""

    @property
    def head(self) -> int: ...

    def cursor(self, name: str) -> CursorState | None: ...

    def matching(self, predicate: Predicate, after: int, limit: int | None) -> list[Commit]:
        """Return commits after ``after`` that wrote an entry ``predicate`` matches, or deleted one it covers."""

    def watching(self, predicate: Predicate) -> AbstractContextManager[Changed]:
        """Give a signal that is set when a commit may have changed what ``predicate`` covers, perhaps also else."""


class Subscription:
    """Delivers every matching commit at least once; processed exactly once by transactions that ``advance`` it."""

    def __init__(self, feed: Feed, name: str, predicate: Predicate) -> None:
        self.name = name
        self.predicate = predicate
        self.polled_from: int | None = None
        self._feed = feed
        self._scanned = 0

    @property
    def position(self) -> int:
        """The commit up to which everything was handled, as stored now."""
        cursor = self._feed.cursor(self.name)
        if cursor is None:
            raise SubscriptionMismatch(f"Subscription {self.name} does not exist.")
        return cursor.position

    def poll(self, limit: int | None = 100) -> list[Commit]:
        """Return the next matching commits after the position, oldest first; without ``limit`` all of them."""
        self.polled_from = self.position
        return self._feed.matching(self.predicate, self.polled_from, limit)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a matching commit after the position; return whether there is one. ``timeout`` in seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        position = self.position
        with self._feed.watching(self.predicate) as changed:
            while True:
                # Forgotten before looking: what comes while this looks is noticed after it.
                changed.clear()
                head = self._feed.head
                after = max(position, self._scanned)
                if after < head and self._feed.matching(self.predicate, after, 1):
                    return True
                self._scanned = max(after, head)
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                changed.wait(remaining)
