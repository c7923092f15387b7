"""What the committer and the readers need of a database; :mod:`agentsys.blackboard.sqlite` provides it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Row, Select

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectState
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import BoardError


class BoardCorrupt(BoardError):
    """The board's file is damaged, or is no board."""

    code = "AGS-0202"
    remedy = "Restore the file and its -wal companion from a backup, or move both away to start an empty board."


class BoardFull(BoardError):
    """The disk, or the size the database may take, is used up. The transaction was not committed."""

    code = "AGS-0203"
    remedy = "Free space and submit the same transaction again; everything acknowledged is kept and can be read."


class StorageFailed(BoardError):
    """The database could not be read or written."""

    code = "AGS-0204"
    remedy = "Check the disk and the file's permissions; submitting the same transaction again is always safe."


class BoardUnreachable(StorageFailed):
    """The database server cannot be reached, or the connection was lost while something was under way."""

    code = "AGS-0223"
    remedy = "Check the server, the network and the address; submitting the same transaction again is always safe."


class BoardForbidden(BoardError):
    """The database does not let its user do that with the board, or make one."""

    code = "AGS-0265"
    remedy = "Let the board's owner grant what is missing, or use another user; `docs/deployment.md` names the rights."


class SchemaTooNew(BoardError):
    """The board was written by a newer agentsys."""

    code = "AGS-0205"
    remedy = "Upgrade agentsys, or open another board."


class SchemaTooOld(BoardError):
    """A board in PostgreSQL was written by an older agentsys, and is opened for reading only."""

    code = "AGS-0261"
    remedy = "Open it for writing once, which upgrades it; older versions of agentsys can then no longer use it."


class BoardClosed(BoardError):
    """The board was closed."""

    code = "AGS-0207"
    remedy = "Open the board again."


class StaleEpoch(BoardError):
    """Another process took the writing of the board over; this one may not write any more."""

    code = "AGS-0208"
    remedy = "Close this board and open it again."


class LogMoved(BoardError):
    """The log went on beyond what its leader knows: by a commit over several boards, or one whose answer was lost."""

    code = "AGS-0225"
    remedy = "The committer reads what was added and tries again by itself; report it if you see this."


class BoardMissing(BoardError):
    """There is no board at the path, or its folder cannot be used."""

    code = "AGS-0209"
    remedy = "Check the path; a board is created by the first process that opens it for writing."


class ChainBroken(BoardError):
    """The stored log differs from what was committed."""

    code = "AGS-0218"
    remedy = "Somebody edited the file: restore it from a backup, and trust nothing from the commit named on."


class HistoryCompacted(BoardError):
    """A past state, or a part of the log, was asked for that a compaction has dropped."""

    code = "AGS-0260"
    remedy = "Read from `Board.horizon` on: begin a new transaction, or hold the states that you need by `Board.lease`."

    @classmethod
    def at(cls, seq: int, horizon: int) -> "HistoryCompacted":
        """Return the error of who asks for commit ``seq`` or its state."""
        return cls(f"The board's past before commit {horizon} was compacted, and {seq} lies there.")


@dataclass(frozen=True, slots=True)
class BoardState:
    """``head``: newest commit, ``head_hash``: its hash, ``epoch``: how often the board was opened for writing.

    ``horizon`` is the oldest commit after which the board can still be read.
    """

    head: int
    head_hash: str
    epoch: int
    horizon: int


@dataclass(frozen=True, slots=True)
class Change:
    """An entry's step from version ``old`` to ``new``; ``old`` may be a deletion, as may ``new``."""

    old: Entry | None
    new: Entry

    def concerns(self, predicate: Predicate) -> bool:
        """Whether the set that ``predicate`` describes differs before and after."""
        return predicate.matches(self.new) or (self.old is not None and predicate.matches(self.old))


@dataclass(frozen=True, slots=True)
class PreparedCommit:
    """A commit to store; ``texts`` are the JSON texts of its writes' values, ``None`` for deletions."""

    commit: Commit
    texts: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class CursorState:
    """A durable subscription as stored."""

    name: str
    predicate: Predicate
    position: int


class Maintenance(Protocol):
    """A step of upkeep, in one transaction of the database in which nothing else is committed.

    It is sent to the process that leads, and may be done twice.
    """

    def run(self, connection: Connection) -> Any:
        """Do the step and return what came of it."""


class Reader(Protocol):
    """Reads of committed state. Thread-safe; no database transaction outlives a call.

    What asks for a state before the horizon raises :class:`HistoryCompacted`.
    """

    def state(self) -> BoardState: ...

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        """Return the rows of a statement over the board's tables."""

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        """Return the version current at commit ``at``, deletions included."""

    def query_at(self, predicate: Predicate, at: int, limit: int | None = None) -> list[Entry]:
        """Return the existing entries that match at commit ``at``, ordered by address."""

    def commits(
        self,
        after: int | None,
        *,
        limit: int | None = None,
        run: str | None = None,
        predicate: Predicate | None = None,
        tx_ids: Collection[str] | None = None,
    ) -> list[Commit]:
        """Return commits in order; with ``predicate`` those that wrote an entry it covers (by address and type).

        Without ``after`` all that the log still has.
        """

    def latest(self, before: int | None, *, limit: int | None, run: str | None) -> list[Commit]:
        """Return the newest commits before ``before``, newest first."""

    def history(self, topic: str, key: str) -> list[Entry]:
        """Return every version of an entry since the horizon, oldest first, deletions included."""

    def effects(
        self, *, run: str | None = None, state: EffectState | None = None, ids: Collection[str] | None = None
    ) -> list[Effect]:
        """Return effects in their present state, in the order of their last step."""

    def cursor(self, name: str) -> CursorState | None: ...

    def check(self) -> int:
        """Verify the file and the hash chain from the horizon on; return the number of the last commit.

        Raises :class:`BoardCorrupt` and :class:`ChainBroken`.
        """

    def close(self) -> None: ...


class Storage(Reader, Protocol):
    """The committer's side: used by its one thread only. Of two that write one board, the older one is refused."""

    @property
    def epoch(self) -> int:
        """The number of the opening that leads through this storage."""

    def heads(self, keys: Collection[Key], *, values: bool = True) -> dict[Key, Entry]:
        """Return the newest version of each address that has one, deletions included.

        Without ``values`` nothing may be made of what the entries hold.
        """

    def changes(self, after: int, predicate: Predicate) -> list[Change]:
        """Return the changes committed after ``after`` that concern ``predicate``."""

    def append(self, commits: Sequence[PreparedCommit]) -> None:
        """Store ``commits`` durably in one step, or nothing of them. Raises :class:`StaleEpoch` after a take-over."""

    def check_head(self, head: int) -> None:
        """Raise :class:`LogMoved` if the log does not end at commit ``head``, and forget what was remembered of it."""

    def begin_epoch(self) -> int:
        """Count another opening of the board and return its number. Raises :class:`StaleEpoch` after a take-over."""

    def create_cursor(self, cursor: CursorState) -> CursorState:
        """Store ``cursor`` unless its name is taken; return what is stored."""

    def maintain(self, step: Maintenance) -> Any:
        """Do ``step`` and return what came of it. Raises :class:`StaleEpoch` after a take-over."""

    def positions(self, names: Collection[str]) -> Mapping[str, int]:
        """Return the positions of the cursors that exist."""
