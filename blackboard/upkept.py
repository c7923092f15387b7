"""What keeps a board whole and small: leases of its past, subscriptions, compaction, verification."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from sqlalchemy import Select, select

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.compaction import Keep, Pin, Plan, compact
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.erasure import Erased, erase
from agentsys.blackboard.leases import SnapshotLease
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import AnyRow, cursor_from_row
from agentsys.blackboard.schema import CURSORS
from agentsys.blackboard.sharing import SharedCommitter
from agentsys.blackboard.shrinking import FileSize, NoFileToShrink
from agentsys.blackboard.storage import BoardState, CursorState, Maintenance, Reader
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.upkeep import EndSubscription


class Maintained(Protocol):
    """The writing side, as far as upkeep needs it."""

    def maintain(self, step: Maintenance) -> "Future[Any]":
        """Queue a step of upkeep; the future holds what came of it."""


class UpkeptBoard(ABC):
    """The part of a board that looks after its stored rows."""

    @property
    def horizon(self) -> int:
        """The oldest commit after which the board can still be read; 0 until a compaction dropped something."""
        return self.state().horizon

    def lease(self, at: int | None = None, *, seconds: float = 60.0) -> SnapshotLease:
        """Keep the states from commit ``at`` on, by default the present one, from compactions until it is closed.

        Should this process die it holds for ``seconds``, a tenth or more. Raises :class:`HistoryCompacted` if they are
        gone.
        """
        return SnapshotLease(self.maintain, self.state().head if at is None else at, seconds)

    def compact(self, keep: Keep, pins: Sequence[Pin] = ()) -> Plan:
        """Drop the past that neither ``keep`` nor anybody needs; see :mod:`agentsys.blackboard.compaction`.

        ``pins`` are needs of which the board does not know, as that of runs that have not ended.
        """
        return compact(self, keep, pins)

    def erase(self, addresses: Sequence[Key], reason: str) -> Erased:
        """Erase all that the entries at ``addresses`` hold and held; see :mod:`agentsys.blackboard.erasure`.

        A board's file holds traces of it until :meth:`shrink`.
        """
        return erase(self, addresses, reason)

    def shrink(self) -> tuple[FileSize, FileSize]:
        """Give the free space of the board's file back to the disk; return its sizes before and after.

        Commits to all boards of the file wait meanwhile, for about as long as copying what it holds takes. Raises
        :class:`ShrinkRefused` where the disk has no room for that, :class:`NoFileToShrink`.
        """
        committer = self.committer()
        if not isinstance(committer, SharedCommitter):
            raise NoFileToShrink("The board is in PostgreSQL, or in a file that goes when it is closed.")
        return committer.shrink().result()

    def subscriptions(self) -> list[CursorState]:
        """Return the durable subscriptions as they are stored, by name."""
        return [cursor_from_row(row) for row in self.select(select(CURSORS).order_by(CURSORS.c.name))]

    def unsubscribe(self, name: str) -> bool:
        """End the durable subscription ``name``, for which compactions keep nothing then; return whether there was one.

        Whoever goes on using it gets :class:`SubscriptionMismatch`.
        """
        return bool(self.maintain(EndSubscription(name)))

    def state(self) -> BoardState:
        """Return head, hash, epoch and horizon as they are stored now."""
        return self._open_reader().state()

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]:
        """Return the rows of a statement over the board's tables."""
        return self._open_reader().select(statement)

    def maintain(self, step: Maintenance) -> Any:
        """Do a step of upkeep between two commits, in the process that leads, and return what came of it."""
        return self.committer().maintain(step).result()

    def verify(self) -> int:
        """Check the file and every hash of the log from the horizon on; return the number of the last commit.

        Raises :class:`BoardCorrupt` for a damaged file and :class:`ChainBroken` naming the first altered commit.
        """
        return self._open_reader().check()

    @abstractmethod
    def query(self, predicate: Predicate) -> list[Entry]:
        """Return the matching entries as they are now."""

    @abstractmethod
    def begin(self, principal: str) -> Transaction:
        """Begin a transaction over the present state."""

    @abstractmethod
    def commit(self, tx: Transaction) -> Commit:
        """Commit ``tx`` and wait until it is durable."""

    @abstractmethod
    def get(self, topic: str, key: str) -> Entry | None:
        """Return the entry as it is now."""

    @abstractmethod
    def _open_reader(self) -> Reader: ...

    @abstractmethod
    def committer(self) -> Maintained: ...
