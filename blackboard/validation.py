"""Optimistic validation: whether what a transaction read still holds, at its turn in the commit order."""

from collections.abc import Collection, Iterable

from agentsys.blackboard.clearance import readable
from agentsys.blackboard.commits import CommitRequest
from agentsys.blackboard.conflicts import Conflict, ConflictItem, CursorConflict, KeyConflict, PredicateConflict
from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Entry, Key, parse_canonical
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import Change, HistoryCompacted, PreparedCommit, Storage


class BatchState:
    """The board as the next member of a batch finds it: what is stored, and what earlier members will have written."""

    def __init__(self, storage: Storage, requests: Collection[CommitRequest]) -> None:
        self._storage = storage
        self._values_matter = any(
            request.predicates or any(write.merges for write in request.writes) for request in requests
        )
        keys = {key for request in requests for key in request.reads}
        keys.update([(write.topic, write.key) for request in requests for write in request.writes])
        self._heads = storage.heads(keys, values=self._values_matter)
        self._accepted: dict[Key, str | None] = {}
        self._changes: list[Change] = []
        effect_ids = {effect.id for request in requests for effect in request.effects}
        self._effects = {item.id: item for item in storage.effects(ids=effect_ids)} if effect_ids else {}
        cursors = {move.subscription for request in requests for move in request.cursors}
        self._positions = dict(storage.positions(cursors)) if cursors else {}

    def head(self, key: Key) -> Entry | None:
        """Return the newest version of an entry that some request of the batch reads or writes."""
        return self._heads.get(key)

    def head_with_value(self, key: Key) -> Entry | None:
        """Return :meth:`head` with what it holds, also in a batch that needs no other values."""
        if self._values_matter:
            return self._heads.get(key)
        if key in self._accepted:
            # Whoever committed it may have been given its value, and changed that.
            text = self._accepted[key]
            return self._heads[key].holding(None if text is None else parse_canonical(text))
        return self._storage.heads([key]).get(key)

    def as_stored(self, seen: Entry | None) -> Entry | None:
        """Return a version that was read with the value that it has, which whoever read it may have changed."""
        if seen is None or not isinstance(seen.value, (dict, list)):
            return seen
        try:
            return self._storage.version_at(seen.topic, seen.key, seen.seq) or seen
        except HistoryCompacted:
            return seen

    def effect(self, effect_id: str) -> Effect | None:
        return self._effects.get(effect_id)

    def position(self, subscription: str) -> int:
        """Return the cursor of a subscription; -1, at which nobody polled it, if it does not exist."""
        return self._positions.get(subscription, -1)

    def changes(self, after: int, predicate: Predicate) -> list[Change]:
        """Return the changes made by commits after ``after`` that concern ``predicate``, oldest first."""
        stored = self._storage.changes(after, predicate)
        return stored + [change for change in self._changes if change.concerns(predicate)]

    def accept(self, prepared: PreparedCommit) -> None:
        """Let later members of the batch see ``prepared``."""
        commit = prepared.commit
        for entry, text in zip(commit.writes, prepared.texts, strict=True):
            address = entry.topic, entry.key
            if self._values_matter:
                self._changes.append(Change(self._heads.get(address), entry))
            self._heads[address] = entry
            self._accepted[address] = text
        if commit.effects:
            self._effects.update((effect.id, effect) for effect in commit.effects)
        if commit.cursors:
            self._positions.update((move.subscription, move.to_seq) for move in commit.cursors)


def validate(request: CommitRequest, state: BatchState) -> None:
    """Raise :class:`Conflict` with every difference if ``request`` may not commit on top of ``state``.

    ``serializable``: all it read is unchanged, in old and new image of every set it queried. ``snapshot``: nobody
    else wrote what it writes. A merge that read nothing of its entry goes onto whatever is there.
    """
    items: list[ConflictItem] = [
        CursorConflict(move.subscription, move.from_seq, state.position(move.subscription))
        for move in request.cursors
        if move.from_seq != state.position(move.subscription)
    ]
    if request.isolation == "serializable":
        items += _changed_reads(request, state)
        items += _changed_sets(request, state)
    else:
        items += _overwritten(request, state)
    if items:
        raise Conflict(request.tx_id, items)


def _changed_reads(request: CommitRequest, state: BatchState) -> Iterable[ConflictItem]:
    for (topic, key), seen in request.reads.items():
        head = state.head((topic, key))
        if head is seen or (head is not None and seen is not None and head.version == seen.version):
            continue
        old, new = readable(seen, request.audience), readable(head, request.audience)
        if (old and old.version) != (new and new.version):
            new = readable(state.head_with_value((topic, key)), request.audience)
            yield KeyConflict(topic, key, old.version if old else 0, state.as_stored(old), new)


def _changed_sets(request: CommitRequest, state: BatchState) -> Iterable[ConflictItem]:
    for predicate in request.predicates:
        for change in state.changes(request.snapshot, predicate):
            old, new = readable(change.old, request.audience), readable(change.new, request.audience)
            if any(image is not None and predicate.matches(image) for image in (old, new)):
                yield PredicateConflict(predicate, old, new)


def _overwritten(request: CommitRequest, state: BatchState) -> Iterable[ConflictItem]:
    for write in request.writes:
        address = write.topic, write.key
        head, known = state.head(address), request.reads.get(address)
        if address in request.reads and _standing(known) == _standing(head):
            # What it writes over is what it knows, however late it learned of it.
            continue
        if not write.merges and head is not None and head.seq > request.snapshot:
            seen = readable(known, request.audience)
            new = readable(state.head_with_value(address), request.audience)
            if request.audience is not None and seen is None and new is None:
                continue
            yield KeyConflict(write.topic, write.key, seen.version if seen else 0, state.as_stored(seen), new)


def _standing(entry: Entry | None) -> int:
    """Return the version that stands, 0 where nothing does, as after a deletion."""
    return 0 if entry is None or entry.deleted else entry.version
