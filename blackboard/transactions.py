"""Transactions: buffered on the client, reading one snapshot and their own writes, committed in one short request.

No database transaction is open while a model thinks: a :class:`Transaction` remembers what it read (entries and
predicates) and what it wants to write; the committer validates that in one step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, TypeAlias

from agentsys.blackboard.commits import CommitRequest, CursorMove, Isolation, Write, new_request, new_write
from agentsys.blackboard.effects import EffectChange, EffectIntent, EffectState
from agentsys.blackboard.entries import (
    Endorsement,
    Entry,
    EntryVersionRef,
    Json,
    Key,
    canonical_json,
    check_name,
    parse_canonical,
)
from agentsys.blackboard.labels import BOTTOM, Label, Readers
from agentsys.blackboard.merges import Merge, merged, own_copy
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.read_set import ReadSet
from agentsys.blackboard.sources import Polled, View
from agentsys.blackboard.transaction_ids import new_id
from agentsys.errors import BoardError, LabelError


class LabelTooLow(LabelError):
    """A transaction wrote below the label of what it had read."""

    code = "AGS-0301"
    remedy = "Leave the label out, or pass `endorsed=Endorsement(by, reason)` to put the decision on record."


class TransactionClosed(BoardError):
    """A transaction was used after it had been submitted."""

    code = "AGS-0213"
    remedy = "Begin a new transaction."


class UnknownSavepoint(BoardError):
    """A transaction was rolled back to a mark it does not have."""

    code = "AGS-0219"
    remedy = "Roll back only to marks from `savepoint()` that lie before every mark rolled back to since."


class InvalidCursorMove(BoardError):
    """A cursor was moved without a poll, backwards, or past the end of the log."""

    code = "AGS-0220"
    remedy = "Call `poll()`, handle the commits, then advance to the last one handled."


_Operation: TypeAlias = Write | EffectIntent | EffectChange | CursorMove


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a transaction writes after all at an address where ``found``, if anything, stands meanwhile."""

    found: Entry | None
    value: Json
    label: Label


class Transaction:
    """One unit of work: reads of the snapshot, buffered writes, planned effects. Used by one thread at a time."""

    def __init__(
        self,
        view: View,
        snapshot: int,
        principal: str,
        run: str | None,
        isolation: Isolation,
        urgency: float,
        audience: Readers | None = None,
    ) -> None:
        """Use :meth:`Board.begin`. ``view`` shows no more than the ``audience`` may read."""
        self.id = new_id()
        self.principal = check_name(principal, "principal")
        self.run = run if run is None else check_name(run, "run")
        self.isolation = isolation
        self.urgency = urgency
        self._audience = audience
        self._read = ReadSet(view, snapshot)
        self._operations: list[_Operation] = []
        self._own: dict[Key, Write] = {}
        """Of the operations, the last write at each address."""
        self._request: CommitRequest | None = None
        self.owner = self.id
        """Whose holds this transaction passes and ends."""

    @property
    def snapshot(self) -> int:
        """The commit after which the board is read."""
        return self._read.snapshot

    @property
    def reads_label(self) -> Label:
        """The join of all that was read so far, also by what was rolled back since; of nothing, ``BOTTOM``."""
        return BOTTOM if self._read.label is None else self._read.label

    @property
    def reads(self) -> tuple[EntryVersionRef, ...]:
        """The versions read so far, in order of first reading."""
        return self._read.versions

    def get(self, topic: str, key: str) -> Entry | None:
        """Return the entry as this transaction sees it, or ``None``; an own write has version and seq 0."""
        self._check_open()
        own = self._own.get((topic, key))
        if own is not None and own.merges:
            own = self._applied(own)
        if own is not None:
            self._read.shape(own.label)
            return self._pending_entry(own)
        entry = self._read.at(topic, key)
        if entry is not None:
            self._read.see(entry)
        return None if entry is None or entry.deleted else entry

    def get_hidden(self, topic: str, key: str) -> Entry | None:
        """Return the entry as :meth:`get` does, for a caller that passes it on unseen: no write is shaped by it.

        It is validated as any read is. Whatever is written of it must carry its label, and name its version.
        """
        self._check_open()
        if (topic, key) in self._own:
            return self.get(topic, key)
        entry = self._read.at(topic, key)
        return None if entry is None or entry.deleted else entry

    def rely_on(self, topic: str, key: str, entry: Entry | None) -> None:
        """Take ``entry`` for what stands at an address, instead of reading it; it is validated as any read is.

        It is for callers that know what they wrote last. What was read before stays as it was read.
        """
        self._check_open()
        if (topic, key) not in self._read.entries:
            self._read.entries[topic, key] = entry
            if entry is not None:
                self._read.see(entry)

    def guard(self, entry: Entry) -> None:
        """If ``serializable``, commit only while ``entry``, of any commit, is the newest. Nothing derives from it."""
        self._check_open()
        self._read.entries[entry.address] = entry

    def query(self, predicate: Predicate) -> list[Entry]:
        """Return the matching entries ordered by (topic, key), own writes included."""
        self._check_open()
        found = self._read.matching(predicate)
        for address, write in self._own.items():
            if write.merges and predicate.reaches(*address):
                write = self._applied(write)
            found.pop(address, None)
            own = self._pending_entry(write)
            if own is not None and predicate.matches(own):
                self._read.shape(own.label)
                found[address] = own
        return [found[address] for address in sorted(found)]

    def put(
        self,
        topic: str,
        key: str,
        value: Json,
        *,
        type: str,
        label: Label | None = None,
        derived_from: Sequence[EntryVersionRef] | None = None,
        endorsed: Endorsement | None = None,
    ) -> None:
        """Buffer a new version of an entry.

        Without ``label`` the entry gets the join of everything read, or the principal's own label if nothing was.
        Without ``derived_from`` it derives from everything read. Raises :class:`LabelTooLow` for a label that is not
        above the reads unless ``endorsed``, :class:`InvalidValue` and :class:`InvalidName`.
        """
        self._check_open()
        check_name(topic, "topic")
        check_name(key, "key")
        check_name(type, "type")
        text = canonical_json(value)
        label = self._label_for(f"{topic}/{key}", label, endorsed)
        sources = self.reads if derived_from is None else tuple(derived_from)
        # Parsing the text gives an own copy: what the caller does to its object later must not change the write.
        self._buffer(new_write(topic, key, type, text, parse_canonical(text), label, sources, endorsed))

    def merge(
        self,
        topic: str,
        key: str,
        merge: Merge,
        *,
        type: str,
        label: Label | None = None,
        derived_from: Sequence[EntryVersionRef] | None = None,
    ) -> None:
        """Buffer a change that commutes with other writers': it never conflicts with what they do to the entry.

        The entry's label becomes the join of its own and ``label``; that and ``derived_from`` are by default as in
        :meth:`put`. Reading the entry in the same transaction makes it depend on what was read, like any read. Raises
        :class:`LabelTooLow`, :class:`InvalidValue`, and at the commit :class:`MergeMismatch` where the entry holds
        another kind of value.
        """
        self._check_open()
        for name, what in ((topic, "topic"), (key, "key"), (type, "type")):
            check_name(name, what)
        merge = own_copy(merge)
        label = self._label_for(f"{topic}/{key}", label, None)
        sources = self.reads if derived_from is None else tuple(derived_from)
        before = self._own.get((topic, key))
        if before is None:
            write = Write(topic, key, type, None, None, label, sources, None, (merge,))
        else:
            sources = tuple(dict.fromkeys((*before.derived_from, *sources)))
            write = replace(before, type=type, label=before.label.join(label), derived_from=sources)
            if before.merges:
                write = replace(write, merges=(*before.merges, merge))
            else:
                value = merged(before.value, merge)
                write = replace(write, text=canonical_json(value), value=value)
        self._buffer(write)

    def delete(
        self,
        topic: str,
        key: str,
        *,
        label: Label = BOTTOM,
        derived_from: Sequence[EntryVersionRef] | None = None,
    ) -> None:
        """Buffer the end of an entry, under the join of ``label`` and everything read.

        Without ``derived_from`` it derives from everything read. Deleting what does not exist changes nothing.
        """
        existing = self.get(topic, key)
        if existing is not None:
            label = self._label_for(f"{topic}/{key}", None, None).join(label)
            sources = self.reads if derived_from is None else tuple(derived_from)
            self._buffer(Write(topic, key, existing.type, None, None, label, sources, None))

    def end(self, topic: str, key: str) -> None:
        """Buffer the end of an entry under its own label, for a caller that would end it whatever it is."""
        existing = self.get_hidden(topic, key)
        if existing is not None:
            self._buffer(Write(topic, key, existing.type, None, None, existing.label, (), None))

    def plan_effect(self, intent: EffectIntent) -> None:
        """Put ``intent`` on record with this transaction's writes; planning the same intent again changes nothing."""
        self._check_open()
        check_name(intent.id, "effect id")
        arguments = parse_canonical(canonical_json(intent.arguments))
        self._check_label(f"effect {intent.id}", intent.label)
        self._buffer(replace(intent, arguments=arguments))

    def start_effect(self, effect_id: str) -> None:
        """Record that the next attempt of an effect begins; commit before dispatching it."""
        self._check_open()
        self._buffer(EffectChange(effect_id, EffectState.STARTED))

    def finish_effect(
        self,
        effect_id: str,
        outcome: Literal["succeeded", "failed", "in_doubt", "compensated"],
        result: Json = None,
        label: Label | None = None,
    ) -> None:
        """Record the outcome of an effect together with this transaction's writes."""
        self._check_open()
        copy = parse_canonical(canonical_json(result))
        self._buffer(EffectChange(effect_id, EffectState(outcome), copy, label or Label()))

    def advance(self, subscription: Polled, to_seq: int) -> None:
        """Move a subscription's cursor to ``to_seq`` with this transaction, from where it was last polled."""
        self._check_open()
        start = subscription.polled_from
        if start is None:
            raise InvalidCursorMove(f"Subscription {subscription.name} was advanced before it was polled.")
        if to_seq < start:
            raise InvalidCursorMove(f"Subscription {subscription.name} cannot go back from {start} to {to_seq}.")
        self._buffer(CursorMove(subscription.name, start, to_seq))

    def savepoint(self) -> int:
        """Return a mark for :meth:`rollback_to`."""
        self._check_open()
        return len(self._operations)

    def rollback_to(self, mark: int) -> None:
        """Drop everything buffered after ``mark``. What was read stays read, and keeps shaping labels."""
        self._check_open()
        if not 0 <= mark <= len(self._operations):
            raise UnknownSavepoint(f"Transaction {self.id} has no savepoint {mark}.")
        kept = self._operations[:mark]
        self._operations, self._own = [], {}
        for operation in kept:
            self._buffer(operation)

    def written(self, topic: str, key: str) -> Write | None:
        """Return the value put at an address, if one was put last."""
        write = self._own.get((topic, key))
        return None if write is None or write.text is None else write

    def rebased(self, resolved: Mapping[Key, Resolved]) -> "Transaction":
        """Return this transaction anew, relying at each of the addresses on what was found there and writing over it.

        All else that it read must still hold as it was read.
        """
        again = Transaction(
            self._read.view, self.snapshot, self.principal, self.run, self.isolation, self.urgency, self._audience
        )
        again.owner = self.owner
        again._read = self._read.copy()
        again._operations, again._own = list(self._operations), dict(self._own)
        for address, one in resolved.items():
            again._read.entries[address] = one.found
            mine = self._own[address]
            sources = mine.derived_from
            if one.found is not None:
                again._read.see(one.found)
                sources = (*sources, one.found.ref)
            text = canonical_json(one.value)
            made = replace(mine, text=text, value=parse_canonical(text), label=one.label)
            again._buffer(replace(made, derived_from=tuple(dict.fromkeys(sources))))
        return again

    def seal(self, epoch: int = 0) -> CommitRequest:
        """Close the transaction and return what is to be committed; later calls return it as ``resubmitted``."""
        if self._request is not None:
            self._request = replace(self._request, resubmitted=True)
        else:
            self._request = new_request(
                self.id,
                self.principal,
                self.run,
                self.snapshot,
                self.isolation,
                math.inf if math.isnan(self.urgency) else self.urgency,
                self._read.entries,
                tuple(self._read.predicates),
                tuple(self._own.values()),
                tuple([item for item in self._operations if isinstance(item, (EffectIntent, EffectChange))]),
                tuple([item for item in self._operations if isinstance(item, CursorMove)]),
                epoch=epoch,
                owner=self.owner,
                audience=self._audience,
            )
        return self._request

    def _applied(self, write: Write) -> Write:
        """Return what a buffered merge amounts to on the snapshot, which this transaction thereby relies on."""
        seen = self._read.at(write.topic, write.key)
        value = reduce(merged, write.merges, None if seen is None else seen.value)
        label = write.label if seen is None else write.label.join(seen.label)
        if seen is not None:
            self._read.see(seen)
        return replace(write, text=canonical_json(value), value=value, label=label, merges=())

    def _buffer(self, operation: _Operation) -> None:
        self._operations.append(operation)
        if isinstance(operation, Write):
            self._own[operation.topic, operation.key] = operation

    def _pending_entry(self, write: Write) -> Entry | None:
        if write.text is None:
            return None
        return Entry(
            write.topic,
            write.key,
            write.type,
            0,
            parse_canonical(write.text),
            write.label,
            0,
            self.principal,
            self.run,
            write.derived_from,
            0.0,
            write.endorsement,
        )

    def _label_for(self, what: str, label: Label | None, endorsed: Endorsement | None) -> Label:
        if label is None:
            return self._read.label if self._read.label is not None else Label.trusted(self.principal)
        if endorsed is None:
            self._check_label(what, label)
        return label

    def _check_label(self, what: str, label: Label) -> None:
        read = self._read.label
        if read is not None and label is not read and not read.flows_to(label):
            raise LabelTooLow(
                f"The label of {what}, {label.to_json()}, is not above what the transaction read, {read.to_json()}."
            )

    def _check_open(self) -> None:
        if self._request is not None:
            raise TransactionClosed(f"Transaction {self.id} was submitted already.")
