"""The read set: what a transaction has read of its snapshot, on which its commit depends and by which it is shaped."""

from typing import Self

from agentsys.blackboard.entries import Entry, EntryVersionRef, Key, new_ref
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.sources import View


class ReadSet:
    """What was read of a view after commit ``snapshot``: what is relied on is validated, what is seen shapes labels."""

    def __init__(self, view: View, snapshot: int) -> None:
        self.view = view
        self.snapshot = snapshot
        self.entries: dict[Key, Entry | None] = {}
        """What is relied on at each address."""
        self.predicates: dict[Predicate, None] = {}
        self.label: Label | None = None
        """The join of all that was seen, if anything was."""
        self._seen: dict[tuple[str, str, int], None] = {}

    @property
    def versions(self) -> tuple[EntryVersionRef, ...]:
        """The versions seen, in order of first reading."""
        return tuple([new_ref(*seen) for seen in self._seen])

    def at(self, topic: str, key: str) -> Entry | None:
        """Return what stands at an address, deletions included, and rely on it; it is not seen yet."""
        address = topic, key
        if address in self.entries:
            return self.entries[address]
        entry = self.entries[address] = self.view.version_at(topic, key, self.snapshot)
        return entry

    def matching(self, predicate: Predicate) -> dict[Key, Entry]:
        """Return the matching entries, and rely on there being no others; all are seen."""
        found = {entry.address: entry for entry in self.view.query_at(predicate, self.snapshot)}
        self.predicates[predicate] = None
        for entry in found.values():
            self.see(entry)
        return found

    def see(self, entry: Entry) -> None:
        """Take note that ``entry`` shapes what is written from now on."""
        version = entry.topic, entry.key, entry.version
        if version not in self._seen:
            self._seen[version] = None
            self.shape(entry.label)

    def shape(self, label: Label) -> None:
        """Take note of the label of something that shapes what is written and is no stored entry."""
        self.label = label if self.label is None else self.label.join(label)

    def copy(self) -> Self:
        """Return a read set that goes its own way from here."""
        again = type(self)(self.view, self.snapshot)
        again.entries, again.predicates = dict(self.entries), dict(self.predicates)
        again.label, again._seen = self.label, dict(self._seen)
        return again
