"""The predicate checker: rebuilds every state from the log and evaluates each predicate read again, in its own code.

A read must equal the state of its snapshot, and at ``serializable`` also the state just before its own commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentsys.benchmarks.isolation.anomalies import Anomaly
from agentsys.blackboard.commits import Commit, Isolation

Found: TypeAlias = frozenset[tuple[str, str, int]]
"""Topic, key and version of the entries that a read returned."""


@dataclass(frozen=True, slots=True)
class SetRead:
    """One read of a set: its predicate as JSON, and what came back. The read of one entry names its ``key``."""

    conditions: Mapping[str, Any]
    found: Found


@dataclass(frozen=True, slots=True)
class PredicateTransaction:
    """What a client knows of one transaction; ``seq`` is the commit it was told, ``None`` if it was told nothing."""

    tx_id: str
    isolation: Isolation
    snapshot: int
    seq: int | None
    reads: tuple[SetRead, ...]


def check_predicates(log: Sequence[Commit], transactions: Iterable[PredicateTransaction]) -> list[Anomaly]:
    """Return every read that the log contradicts, every acknowledged commit it lacks, and every lost update."""
    committed = {commit.tx_id: commit.seq for commit in log}
    due: dict[int, list[tuple[str, PredicateTransaction, SetRead]]] = defaultdict(list)
    found = []
    for item in transactions:
        seq = committed.get(item.tx_id)
        # A commit that changed nothing is acknowledged with its snapshot and is not in the log.
        if item.seq is not None and item.seq != (item.snapshot if seq is None else seq):
            found.append(Anomaly("lost-commit", f"{item.tx_id} was acknowledged as {item.seq}, the log has {seq}"))
        for read in item.reads:
            due[item.snapshot].append(("wrong-read", item, read))
            if seq is not None:
                due[seq - 1].append(("phantom", item, read))
    state = _State()
    found += _contradicted(state, 0, due[0])
    for commit in log:
        found += state.apply(commit)
        found += _contradicted(state, commit.seq, due.get(commit.seq, ()))
    return found


def evaluate_at(log: Sequence[Commit], at: int, conditions: Mapping[str, Any]) -> Found:
    """Return what a read with ``conditions`` finds after commit ``at`` of ``log``."""
    state = _State()
    for commit in log[:at]:
        state.apply(commit)
    return state.evaluate(conditions)


def _contradicted(
    state: _State, at: int, due: Iterable[tuple[str, PredicateTransaction, SetRead]]
) -> Iterator[Anomaly]:
    for kind, item, read in due:
        present = state.evaluate(read.conditions)
        if present != read.found:
            differing = sorted(present ^ read.found)
            text = f"{item.tx_id} (snapshot {item.snapshot}) read {dict(read.conditions)}; at {at} differ {differing}"
            yield Anomaly(kind, text)


@dataclass(frozen=True, slots=True)
class _Row:
    version: int
    seq: int
    type: str
    run: str | None
    value: Any
    deleted: bool


class _State:
    """The board after the commits applied so far: topic to key to newest version."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[str, _Row]] = defaultdict(dict)
        self._seq = 0

    def apply(self, commit: Commit) -> list[Anomaly]:
        found = []
        if commit.seq != self._seq + 1:
            found.append(Anomaly("gap", f"commit {commit.seq} follows {self._seq}"))
        self._seq = commit.seq
        for entry in commit.writes:
            rows = self._topics[entry.topic]
            before = rows.get(entry.key)
            if entry.version != (before.version + 1 if before else 1):
                found.append(Anomaly("gap", f"{entry.topic}/{entry.key} skips to version {entry.version}"))
            if commit.isolation == "snapshot" and before is not None and before.seq > commit.snapshot:
                text = f"commit {commit.seq} (snapshot {commit.snapshot}) overwrote {entry.topic}/{entry.key}"
                found.append(Anomaly("lost-update", f"{text} of commit {before.seq}"))
            rows[entry.key] = _Row(entry.version, commit.seq, entry.type, entry.run, entry.value, entry.deleted)
        return found

    def evaluate(self, conditions: Mapping[str, Any]) -> Found:
        topic, prefix = conditions.get("topic"), conditions.get("topic_prefix", "")
        named = [topic] if topic is not None else [name for name in self._topics if name.startswith(prefix)]
        return frozenset(
            (name, key, row.version)
            for name in named
            for key, row in self._topics.get(name, {}).items()
            if not row.deleted and _holds(conditions, key, row)
        )


def _holds(conditions: Mapping[str, Any], key: str, row: _Row) -> bool:
    value = row.value if isinstance(row.value, dict) else {}
    return (
        conditions.get("key", key) == key
        and conditions.get("key_from", key) <= key
        and ("key_to" not in conditions or key < conditions["key_to"])
        and conditions.get("type", row.type) == row.type
        and conditions.get("run", row.run) == row.run
        and all(name in value and value[name] == wanted for name, wanted in conditions.get("equals", {}).items())
    )
