"""What a transaction comes to: the request that its committer gets, and the commit that the log holds."""

import time
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from agentsys.blackboard.effects import Effect, EffectChange, EffectIntent
from agentsys.blackboard.entries import Endorsement, Entry, EntryVersionRef, Json, Key
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.merges import Merge
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.records import quickly

Isolation: TypeAlias = Literal["serializable", "snapshot"]
"""``serializable``: what a transaction read, relied on or guards must stand when it commits. ``snapshot``: it asks only
that nobody else wrote what it writes."""


@dataclass(frozen=True, slots=True)
class CursorMove:
    """A durable subscription's step over the log, from the position it was polled at."""

    subscription: str
    from_seq: int
    to_seq: int


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction. ``at`` is in Unix seconds; ``hash`` covers it and ``prev_hash``: the log is a chain.

    A transaction that changed nothing is not in the log: its ``seq`` is its snapshot and its hashes are empty.
    """

    seq: int
    tx_id: str
    principal: str
    run: str | None
    snapshot: int
    isolation: Isolation
    at: float
    writes: tuple[Entry, ...]
    effects: tuple[Effect, ...]
    cursors: tuple[CursorMove, ...]
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Write:
    """A buffered new version of an entry; ``text`` is the canonical JSON of its value, ``None`` for a deletion.

    One with ``merges`` has neither: the committer applies them, in order, to the value that it finds.
    """

    topic: str
    key: str
    type: str
    text: str | None
    value: Json
    label: Label
    derived_from: tuple[EntryVersionRef, ...]
    endorsement: Endorsement | None
    merges: tuple[Merge, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """All a committer needs to know of a transaction. ``reads`` maps addresses to the version seen, if any.

    Only a ``resubmitted`` one can be in the log already. ``epoch`` tells the process that submits it. One with a
    ``hold``, in seconds, commits nothing: it asks that ``owner`` alone may write what it touches (see ``holds``).
    One with an ``audience`` conflicts only with what that may read (see ``clearance``).
    """

    tx_id: str
    principal: str
    run: str | None
    snapshot: int
    isolation: Isolation
    urgency: float
    reads: dict[Key, Entry | None]
    predicates: tuple[Predicate, ...]
    writes: tuple[Write, ...]
    effects: tuple[EffectIntent | EffectChange, ...]
    cursors: tuple[CursorMove, ...]
    resubmitted: bool = False
    epoch: int = 0
    owner: str = ""
    hold: float = 0.0
    audience: Readers | None = None

    @property
    def changes_nothing(self) -> bool:
        return not (self.writes or self.effects or self.cursors)


new_commit: Final = quickly(Commit)
new_write: Final = quickly(Write)
new_request: Final = quickly(CommitRequest)


def nothing_committed(request: CommitRequest, seq: int) -> Commit:
    """Return what a request that changes nothing comes to, at commit ``seq``."""
    return Commit(
        seq, request.tx_id, request.principal, request.run, seq, request.isolation, time.time(), (), (), (), "", ""
    )
