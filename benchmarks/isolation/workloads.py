"""The transactions of the isolation benchmark: lists that grow, and sets whose members come, change and go."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, Protocol

from agentsys.benchmarks.isolation.histories import Operation
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction

SLOTS: Final = 32
"""Lists in use at a time: few, so that transactions meet."""
LIST_LENGTH: Final = 24
"""Elements after which a list is left alone and its slot begins another, to bound what is read."""
ELEMENTS: Final = 10_000_000
"""Elements that one process may append; its number times this is its first one."""
TOPICS: Final = 12
KEYS: Final = 16
STATES: Final = ("open", "taken", "done")


class Workload(Protocol):
    """Does the work of one transaction and returns, as JSON, what it did and saw."""

    def perform(self, tx: Transaction) -> list[Any]: ...


class ListWorkload:
    """Appends to and reads lists of two make-ups: one entry that holds the list, and one entry for each element.

    The first is read by its address, the second by a predicate, so that anti-dependencies run through both.
    """

    def __init__(self, process: int, choices: random.Random, slots: Sequence[int]) -> None:
        self._choices = choices
        self._slots = slots
        self._next = process * ELEMENTS
        self._generations = [0] * SLOTS

    def perform(self, tx: Transaction) -> list[Any]:
        return [self._operation(tx).to_json() for _ in range(self._choices.randint(1, 4))]

    def _operation(self, tx: Transaction) -> Operation:
        slot = self._choices.choice(self._slots)
        key = self.key(slot, self._generations[slot])
        if self._choices.random() < 0.5:
            return Operation("r", key, self._read(tx, slot, key))
        self._next += 1
        if slot % 2:
            tx.put(key, f"{self._next:012d}", self._next, type="element")
        else:
            tx.put("lists", key, [*self._read(tx, slot, key), self._next], type="list")
        return Operation("append", key, self._next)

    def _read(self, tx: Transaction, slot: int, key: str) -> tuple[int, ...]:
        found = read_list(tx, slot, key)
        if len(found) >= LIST_LENGTH:
            self._generations[slot] += 1
        return found

    @staticmethod
    def key(slot: int, generation: int) -> str:
        return f"list-{slot}.{generation}"


def read_list(tx: Transaction, slot: int, key: str) -> tuple[int, ...]:
    """Return the list as ``tx`` sees it; the elements of a commit are in the order of their numbers."""
    if slot % 2 == 0:
        entry = tx.get("lists", key)
        value: Any = [] if entry is None else entry.value
        return tuple(value)
    entries = sorted(tx.query(Predicate(topic=key)), key=_written)
    return tuple(int(entry.key) for entry in entries)


def _written(entry: Entry) -> tuple[float, str]:
    # What the transaction itself wrote has the sequence number 0, and comes last.
    return entry.seq or float("inf"), entry.key


def final_reads(tx: Transaction, keys: Sequence[str]) -> list[Any]:
    """Read each list of ``keys`` once more."""
    return [Operation("r", key, read_list(tx, int(key[5:].split(".")[0]), key)).to_json() for key in keys]


class PredicateWorkload:
    """Reads sets by every form of predicate, then creates, changes and deletes entries, each at most once."""

    def __init__(self, choices: random.Random) -> None:
        self._choices = choices

    def perform(self, tx: Transaction) -> list[Any]:
        reads = [self._read(tx) for _ in range(self._choices.randint(1, 2))]
        for topic, key in {self._address() for _ in range(self._choices.randint(0, 2))}:
            if self._choices.random() < 0.25:
                entry = tx.get(topic, key)
                reads.append(_as_read({"topic": topic, "key": key}, [entry] if entry is not None else []))
                tx.delete(topic, key)
            else:
                value: dict[str, Any] = {"state": self._choices.choice(STATES), "n": self._choices.randrange(4)}
                tx.put(topic, key, value, type=self._choices.choice(("task", "note")))
        return reads

    def _read(self, tx: Transaction) -> list[Any]:
        topic, key = self._address()
        conditions: dict[str, Any] = self._choices.choice(
            [
                {"topic": topic, "equals": {"state": self._choices.choice(STATES)}},
                {"topic": topic, "key_from": key, "key_to": key + "~"},
                {"topic": topic, "type": "note"},
                {"topic_prefix": topic[:5], "key_from": key, "key_to": key + "~", "equals": {"n": 1}},
            ]
        )
        return _as_read(conditions, tx.query(Predicate.from_json(conditions)))

    def _address(self) -> tuple[str, str]:
        return f"sets/{self._choices.randrange(TOPICS):02d}", f"{self._choices.randrange(KEYS):02d}"


def _as_read(conditions: dict[str, Any], entries: Sequence[Entry]) -> list[Any]:
    return [conditions, [[entry.topic, entry.key, entry.version] for entry in entries]]


WORKLOADS: Final = ("list-append", "predicates")


def workload(name: str, process: int, choices: random.Random, isolation: Isolation) -> Workload:
    """Return the workload ``name`` of one process."""
    if name == "predicates":
        return PredicateWorkload(choices)
    # Elements with entries of their own never meet in a write, so their order binds nobody under snapshot isolation.
    return ListWorkload(process, choices, range(0, SLOTS, 2 if isolation == "snapshot" else 1))
