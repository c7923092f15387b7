"""What a transaction reads from: past states of a board, and subscriptions."""

from typing import Protocol

from agentsys.blackboard.entries import Entry
from agentsys.blackboard.predicates import Predicate


class View(Protocol):
    """What a transaction reads from: past states of the board by commit sequence number."""

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        """Return the version current at ``at``, deletions included."""

    def query_at(self, predicate: Predicate, at: int) -> list[Entry]:
        """Return the existing entries that match, ordered by address."""


class Polled(Protocol):
    """A subscription as far as a transaction needs it."""

    @property
    def name(self) -> str: ...

    @property
    def polled_from(self) -> int | None: ...
