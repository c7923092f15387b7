"""An actor's view of the board: snapshot reads, and writes that are buffered until a commit takes them."""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json
from agentsys.blackboard.labels import Label, Readers, join_all
from agentsys.blackboard.merges import Merge, as_json
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import label_from_text
from agentsys.blackboard.snapshots import labels_at
from agentsys.blackboard.transactions import Transaction
from agentsys.journal import Journal, digest


def label_of_search(board: Board, predicate: Predicate, at: int, audience: Readers | None = None) -> Label:
    """Return who had a say in what a search of the state after commit ``at`` finds: whoever ended an entry did, too.

    What the audience may not read is not there, and its label would tell that it is.
    """
    labels = [label_from_text(row[0]) for row in board.select(labels_at(predicate).params(at=at))]
    return join_all(label for label in labels if audience is None or label.readers.permits(audience))


class Workspace:
    """One transaction after another, each begun at a known snapshot, so that an execution can be repeated exactly."""

    def __init__(
        self,
        journal: Journal,
        principal: str,
        snapshot: int,
        owner: str | None = None,
        audience: Readers | None = None,
        known: Sequence[EntryVersionRef] = (),
    ) -> None:
        """With an ``audience``, what not all of it may read is not there.

        What is written is derived from the versions that are ``known``, too.
        """
        self._journal = journal
        self._principal = principal
        self._snapshot = snapshot
        self._owner = owner
        self._audience = audience
        self._transaction: Transaction | None = None
        self._writes: list[Json] = []
        self._read: dict[EntryVersionRef, None] = {}
        """What transactions before this one read."""
        self._found: dict[EntryVersionRef, None] = dict.fromkeys(known)

    @property
    def transaction(self) -> Transaction:
        if self._transaction is None:
            self._transaction = self._journal.begin(self._principal, self._audience, at=self._snapshot)
            self._transaction.owner = self._owner or self._transaction.owner
        return self._transaction

    @property
    def reads_label(self) -> Label:
        """The join of everything the transaction has read, ends of entries included."""
        return self.transaction.reads_label

    @property
    def found(self) -> list[EntryVersionRef]:
        """The versions that all transactions found, in the order in which they first did."""
        return list(self._found)

    @property
    def has_writes(self) -> bool:
        return bool(self._writes)

    def get(self, topic: str, key: str) -> Entry | None:
        entry = self.transaction.get(topic, key)
        self._note([] if entry is None else [entry])
        return entry

    def get_hidden(self, topic: str, key: str) -> Entry | None:
        return self.transaction.get_hidden(topic, key)

    def query(self, predicate: Predicate) -> list[Entry]:
        entries = self.transaction.query(predicate)
        self._note(entries)
        return entries

    def label_of_search(self, predicate: Predicate) -> Label:
        """Return what :func:`label_of_search` does for the transaction's snapshot and audience."""
        return label_of_search(self._journal.board, predicate, self.transaction.snapshot, self._audience)

    def put(
        self,
        topic: str,
        key: str,
        value: Json,
        *,
        type: str,
        label: Label,
        sources: Sequence[EntryVersionRef] = (),
    ) -> None:
        """``sources`` are versions that the value was taken from beside those that were read."""
        self.transaction.put(topic, key, value, type=type, label=label, derived_from=[*self._reads(), *sources])
        self._writes.append(["put", topic, key, type, value])

    def merge(self, topic: str, key: str, merge: Merge, *, type: str, label: Label) -> None:
        self.transaction.merge(topic, key, merge, type=type, label=label, derived_from=self._reads())
        self._writes.append(["merge", topic, key, type, as_json(merge)])

    def delete(self, topic: str, key: str, *, label: Label) -> None:
        self.transaction.delete(topic, key, label=label)
        self._writes.append(["delete", topic, key])

    def note(self, versions: Sequence[EntryVersionRef]) -> None:
        """Count versions among those that were found: what a handle or an answer was made from, say."""
        self._found |= dict.fromkeys(versions)

    def writes_digest(self) -> str:
        """Return a hash of the buffered writes, by which a repeated execution is compared with the recorded one."""
        return digest(self._writes)

    def take(self) -> Transaction:
        """Hand the transaction over to whoever commits it."""
        transaction = self.transaction
        self.drop()
        return transaction

    def forget_writes(self) -> None:
        """Drop what was buffered; what was read stays read."""
        self.transaction.rollback_to(0)
        self._writes = []

    def drop(self) -> None:
        """Begin anew; the buffered writes were committed."""
        self._read = dict.fromkeys(self._reads())
        self._transaction = None
        self._writes = []

    def advance(self, seq: int) -> None:
        """Let the next transaction begin at commit ``seq`` at least; one that is under way keeps its snapshot."""
        self._snapshot = max(self._snapshot, seq)

    def _reads(self) -> list[EntryVersionRef]:
        """Return the versions that shape what is written now."""
        now = () if self._transaction is None else self._transaction.reads
        return list(dict.fromkeys((*self._read, *now, *self._found)))

    def _note(self, entries: Sequence[Entry]) -> None:
        # An own write has no version yet.
        self.note([entry.ref for entry in entries if entry.version])
