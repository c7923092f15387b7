"""Removing and copying checkpoints: what stays can be read, and each lineage's head is its newest checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import ConfigurationError
from agentsys.langgraph.addresses import CHECKPOINT, HEAD, ROOT, Place, thread_topic
from agentsys.langgraph.channels import ValueReader, holders, whole
from agentsys.langgraph.encoding import decoded
from agentsys.langgraph.history import ancestors
from agentsys.langgraph.ownership import head_value


def delete_thread(transaction: Transaction, thread: str, label: Label) -> None:
    """Delete everything that a thread has."""
    _delete(transaction, transaction.query(Predicate(topic=thread_topic(thread))), label)


def copy_thread(transaction: Transaction, entries: Iterable[Entry], target: str, label: Label) -> None:
    """Copy ``entries``, all that a thread has; what the target has under other identifiers stays, also as its newest.

    Each keeps its label, under that of who copies: ``entries`` were not read by ``transaction``, nor is the target.
    """
    topic = thread_topic(target)
    for entry in entries:
        if entry.type == HEAD and _is_behind(entry, transaction.get_hidden(topic, entry.key)):
            continue
        above, sources = label.join(entry.label), (entry.ref,)
        transaction.put(topic, entry.key, entry.value, type=entry.type, label=above, derived_from=sources)


def _is_behind(head: Entry, other: Entry | None) -> bool:
    """Whether ``other`` names a newer checkpoint than ``head``."""
    return other is not None and (_body(other)["checkpoint"] or "") > (_body(head)["checkpoint"] or "")


def delete_for_runs(transaction: Transaction, runs: Collection[str], label: Label) -> None:
    """Delete the checkpoints that ``runs`` made."""
    if runs:
        gone = [entry for entry in _checkpoints(transaction, None) if _body(entry)["run"] in runs]
        _remove(transaction, gone, label)


def prune(
    transaction: Transaction, threads: Sequence[str], strategy: str, label: Label, serde: SerializerProtocol
) -> None:
    """Delete all checkpoints of ``threads``, or all but each lineage's newest and what its delta channels need."""
    if strategy not in ("keep_latest", "delete"):
        raise ConfigurationError(f"There is no pruning strategy {strategy!r}.", remedy="Use 'keep_latest' or 'delete'.")
    for thread in threads:
        if strategy == "delete":
            delete_thread(transaction, thread, label)
            continue
        for place, entries in _by_place(_checkpoints(transaction, thread)).items():
            kept = _needed(transaction, place, entries, serde)
            _remove(transaction, [entry for entry in entries if entry.key not in kept], label)


def _needed(transaction: Transaction, place: Place, entries: Sequence[Entry], serde: SerializerProtocol) -> set[str]:
    """Return the keys of the newest checkpoint, and of those back to where each of its delta channels is stored."""
    newest = max(entries, key=lambda entry: entry.key)
    missing = set(decoded(serde, _body(newest)["metadata"]).get("counters_since_delta_snapshot") or ())
    missing -= _body(newest)["values"].keys()
    needed = {newest.key}
    for _, entry in ancestors(transaction, place, Place.at(newest.topic, newest.key)[1]):
        if not missing:
            break
        needed.add(entry.key)
        missing -= _body(entry)["values"].keys()
    return needed


def _remove(transaction: Transaction, gone: Iterable[Entry], label: Label) -> None:
    """Delete checkpoints and what was written on them; make whole what builds on them, and move the heads."""
    for place, entries in _by_place(gone).items():
        keys = {entry.key for entry in entries}
        stay = [entry for entry in transaction.query(place.checkpoints()) if entry.key not in keys]
        _make_whole(transaction, place, stay, {Place.at(place.topic, key)[1] for key in keys}, label)
        for entry in entries:
            _, checkpoint = Place.at(entry.topic, entry.key)
            _delete(transaction, [entry, *transaction.query(place.all_writes(checkpoint))], label)
        head = transaction.get(place.topic, place.head)
        if not stay:
            _delete(transaction, [] if head is None else [head], label)
        elif head is None or place.checkpoint(_body(head)["checkpoint"] or "") in keys:
            _, newest = Place.at(place.topic, max(entry.key for entry in stay))
            value = head_value(newest, None)
            transaction.put(
                place.topic, place.head, value, type=HEAD, label=label.join(transaction.reads_label), derived_from=()
            )


def _make_whole(transaction: Transaction, place: Place, stay: Sequence[Entry], gone: set[str], label: Label) -> None:
    """Store the values of those of ``stay`` that build on ``gone``, at any remove, without reference to others."""
    needs = {Place.at(entry.topic, entry.key)[1]: holders(entry.value) for entry in stay}
    for entry in stay:
        if _reach(Place.at(entry.topic, entry.key)[1], needs) & gone:
            _, checkpoint = Place.at(entry.topic, entry.key)
            values = whole(ValueReader(transaction, place).values(entry), checkpoint)
            body = {**_body(entry), "values": values}
            transaction.put(
                entry.topic,
                entry.key,
                body,
                type=CHECKPOINT,
                label=label.join(transaction.reads_label),
                derived_from=(entry.ref,),
            )


def _reach(checkpoint: str, needs: dict[str, set[str]]) -> set[str]:
    """Return every checkpoint that ``checkpoint`` builds on, as far as ``needs`` tells."""
    reached: set[str] = set()
    queue = [checkpoint]
    while queue:
        for named in needs.get(queue.pop(), set()) - reached:
            reached.add(named)
            queue.append(named)
    return reached


def _checkpoints(transaction: Transaction, thread: str | None) -> list[Entry]:
    if thread is None:
        return transaction.query(Predicate(topic_prefix=ROOT, type=CHECKPOINT))
    return transaction.query(Predicate(topic=thread_topic(thread), type=CHECKPOINT))


def _by_place(entries: Iterable[Entry]) -> dict[Place, list[Entry]]:
    found: dict[Place, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[Place.at(entry.topic, entry.key)[0]].append(entry)
    return found


def _delete(transaction: Transaction, entries: Iterable[Entry], label: Label) -> None:
    for entry in entries:
        transaction.delete(entry.topic, entry.key, label=label, derived_from=(entry.ref,))


def _body(entry: Entry) -> Any:
    return entry.value
