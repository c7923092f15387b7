"""What each record of a run was made from: what its writer had read, and what had been delivered to it before.

Entries name what their transaction read. The runtime's own records name nothing, and need not: an actor knows what its
steps delivered, in their order, so that each record comes from the step before it and from what that step brought in.
An agent's own write counts as made from all that the agent knew when its transaction ended. What another run wrote is
followed no further than the entry that was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Entry, EntryVersionRef

Via = Literal["read", "started", "asked", "volunteered", "then", "answered", "called", "returned"]
Source: TypeAlias = tuple[str, Via]
"""Name of a record, and how it came to what was made from it."""

Position: TypeAlias = tuple[float, float]
"""Attempt of an actor, and index of a step in it: -1 for the attempt's own record, infinite for its end."""

MAIN = "main"


def version_name(ref: EntryVersionRef) -> str:
    """Return the name of one version of an entry."""
    return f"{ref.topic}/{ref.key}@{ref.version}"


def effect_name(effect: str) -> str:
    """Return the name of a tool call's outcome."""
    return f"effect/{effect}"


class Derivation:
    """The records of one run, by name, and the sources of each."""

    def __init__(self, board: Board, run: str | None) -> None:
        self._board = board
        self._run = run or ""
        self.records: dict[str, Entry | Effect] = {}
        self._commits: dict[int, list[Entry]] = {}
        self._steps: dict[str, list[tuple[Position, Entry]]] = {}
        self._responses: dict[str, list[Entry]] = {}
        for commit in board.log(run=run) if run else []:
            self._commits[commit.seq] = list(commit.writes)
            self.records |= {effect_name(effect.id): effect for effect in commit.effects}
            for entry in commit.writes:
                self._remember(entry)

    def _remember(self, entry: Entry) -> None:
        self.records[version_name(entry.ref)] = entry
        if entry.topic == topics.steps(self._run):
            path, position = _position(entry.key)
            self._steps.setdefault(path, []).append((position, entry))
        elif entry.topic.startswith(topics.responses(self._run, "")):
            self._responses.setdefault(entry.topic.removeprefix(topics.responses(self._run, "")), []).append(entry)

    def find(self, name: str) -> Entry | Effect | None:
        """Return a record of this run, or one that :meth:`sources` found elsewhere."""
        return self.records.get(name)

    def sources(self, name: str) -> list[Source]:
        """Return what a record was made from, each source once; of an unknown one, nothing."""
        record = self.records.get(name)
        if record is None:
            return []
        if isinstance(record, Effect):
            called = EntryVersionRef(topics.steps(self._run), record.intent.step, 1)
            return [(version_name(called), "called")]
        found = [*self._read(record), *self._delivered_to(record)]
        return [(source, via) for source, via in dict(found).items() if source != name and source in self.records]

    def _read(self, entry: Entry) -> Iterable[Source]:
        for ref in entry.derived_from:
            name = version_name(ref)
            if name not in self.records:
                self._fetch(ref)
            yield name, "read"

    def _fetch(self, ref: EntryVersionRef) -> None:
        """Take in an entry that another run wrote."""
        found = [entry for entry in self._board.history(ref.topic, ref.key) if entry.version == ref.version]
        self.records |= {version_name(entry.ref): entry for entry in found}

    def _delivered_to(self, entry: Entry) -> list[Source]:
        run, topic, key = self._run, entry.topic, entry.key
        if entry.run != self._run or not run:
            return []
        if topic == topics.RUNS:
            return [] if entry.version == 1 else self._delivered(MAIN, (math.inf, 0))
        if topic in (topics.requests(run), topics.steps(run)):
            return self._delivered(*_position(key))
        if topic == topics.decisions(run):
            return self._delivered(*_position(key.rpartition("/")[0]))
        if topic == topics.rounds(run):
            return [(version_name(response.ref), "answered") for response in self._responses.get(key, [])]
        if topic.startswith(topics.bids(run, "")):
            asked = EntryVersionRef(topics.requests(run), topic.removeprefix(topics.bids(run, "")), 1)
            return [(version_name(asked), "asked")]
        if topic.startswith(topics.responses(run, "")):
            return self._delivered(f"{topic.removeprefix(topics.responses(run, ''))}/{key}", (math.inf, 0))
        return self._delivered_with(entry)

    def _delivered_with(self, entry: Entry) -> list[Source]:
        """Return the sources of the record that an agent's own write was committed with, which is of the same agent."""
        for companion in self._commits.get(entry.seq, []):
            if topics.is_reserved(companion.topic) and companion.topic not in (topics.APPROVALS,):
                return self._delivered_to(companion)
        return []

    def _delivered(self, path: str, before: Position) -> list[Source]:
        """Return the last step that an actor took before a position, with what it brought; else how it began."""
        earlier = [(position, step) for position, step in self._steps.get(path, []) if position < before]
        if not earlier:
            return [self._beginning(path)]
        _, step = max(earlier, key=lambda found: found[0])
        return [(version_name(step.ref), "then"), *self._brought(step)]

    def _brought(self, step: Entry) -> list[Source]:
        recorded: Any = step.value
        if recorded["kind"] == "ask":
            return [(version_name(response.ref), "answered") for response in self._responses.get(step.key, [])]
        if recorded["kind"] == "call" and "effect" in recorded["value"]:
            return [(effect_name(recorded["value"]["effect"]), "returned")]
        return []

    def _beginning(self, path: str) -> Source:
        round_id, _, agent = path.rpartition("/")
        bid = version_name(EntryVersionRef(topics.bids(self._run, round_id), agent, 1))
        if bid in self.records:
            return bid, "volunteered"
        return version_name(EntryVersionRef(topics.RUNS, self._run, 1)), "started"


def _position(key: str) -> tuple[str, Position]:
    """Split a step's key, ``path#attempt`` or ``path#attempt:index``."""
    path, _, tail = key.rpartition("#")
    attempt, separator, index = tail.partition(":")
    place = -1.0 if not separator else float(index) if index.isdecimal() else math.inf
    return path, (int(attempt) if attempt.isdecimal() else 1, place)
