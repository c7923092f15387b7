"""What each record of a run was made from: what its writer had read, and what had been delivered to it before.

Entries name what their transaction read. The runtime's own records name nothing, and need not: an actor knows what its
steps delivered, in their order, so that each record comes from the step before it and from what that step brought in.
An agent's own write counts as made from all that the agent knew when its transaction ended. What another run wrote is
followed no further than the entry that was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Entry, EntryVersionRef
from agentsys.blackboard.payloads import is_erased

Via = Literal["read", "started", "asked", "volunteered", "then", "answered", "called", "returned"]
Source: TypeAlias = tuple[str, Via]
"""Name of a record, and how it came to what was made from it."""

Position: TypeAlias = tuple[float, float]
"""Attempt of an actor, and index of a step in it: -1 for the attempt's own record, infinite for its end."""

MAIN: Final = "main"
_OF_NO_ACTOR: Final = (topics.APPROVALS, topics.MEMO, topics.LEASES, topics.QUOTAS, topics.POLICIES)
"""Reserved topics whose entries are no record of what an actor knew."""

END: Final[Position] = (math.inf, 0)
"""After every step of an actor."""


def version_name(ref: EntryVersionRef) -> str:
    """Return the name of one version of an entry."""
    return f"{ref.topic}/{ref.key}@{ref.version}"


def left_of(entry: Entry) -> Any:
    """Return what a record says; nothing, as an empty object, of one that was erased or deleted."""
    return {} if entry.deleted or is_erased(entry.value) else entry.value


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
        self._bids: dict[str, list[Entry]] = {}
        self._node_ends: dict[str, list[tuple[int, Entry]]] = {}
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
            node = _graph_node(path)
            if node is not None and position == END:
                self._node_ends.setdefault(node[0], []).append((node[1], entry))
        for prefix, kept in (
            (topics.responses(self._run, ""), self._responses),
            (topics.bids(self._run, ""), self._bids),
        ):
            if entry.topic.startswith(prefix):
                kept.setdefault(entry.topic.removeprefix(prefix), []).append(entry)

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
            return [] if entry.version == 1 else self._delivered(MAIN, END, entry)
        if topic in (topics.requests(run), topics.steps(run)):
            return self._delivered(*_position(key), entry)
        if topic == topics.decisions(run):
            return self._delivered(*_position(key.rpartition("/")[0]), entry)
        if topic == topics.rounds(run):
            return [(version_name(response.ref), "answered") for response in self._responses.get(key, [])]
        if topic.startswith(topics.bids(run, "")):
            asked = EntryVersionRef(topics.requests(run), topic.removeprefix(topics.bids(run, "")), 1)
            return [(version_name(asked), "asked")]
        if topic.startswith(topics.responses(run, "")):
            return self._delivered(f"{topic.removeprefix(topics.responses(run, ''))}/{key}", END, entry)
        return self._delivered_with(entry)

    def _delivered_with(self, entry: Entry) -> list[Source]:
        """Return the sources of the record that an agent's own write was committed with, which is of the same agent."""
        for companion in self._commits.get(entry.seq, []):
            if topics.is_reserved(companion.topic) and companion.topic not in _OF_NO_ACTOR:
                return self._delivered_to(companion)
        return []

    def _delivered(self, path: str, before: Position, record: Entry) -> list[Source]:
        """Return the last step that an actor took before a position, with what it brought, or else how it began.

        Where it ran a graph, the nodes that ended last before ``record`` brought what they saw, too.
        """
        ended = self._last_nodes(path, before=record.seq)
        earlier = [(position, step) for position, step in self._steps.get(path, []) if position < before]
        if not earlier:
            return ended or self._beginning(path, record)
        _, step = max(earlier, key=lambda found: found[0])
        return [(version_name(step.ref), "then"), *self._brought(step), *ended]

    def _last_nodes(self, path: str, *, before: int, superstep: float = math.inf) -> list[Source]:
        """Return the ends of the nodes of the last superstep before a commit: each began with all that ended before."""
        ended = [(at, end) for at, end in self._node_ends.get(path, []) if at < superstep and end.seq < before]
        last = max((at for at, _ in ended), default=0)
        return [(version_name(end.ref), "then") for at, end in ended if at == last]

    def _brought(self, step: Entry) -> list[Source]:
        recorded = left_of(step)
        if recorded.get("kind") == "ask":
            answered = self._responses.get(step.key, [])
            agents = {response.key for response in answered}
            # That an agent offered is known to who asked, also where the agent was not chosen.
            offered = [bid for bid in self._bids.get(step.key, []) if bid.key not in agents]
            return [
                *((version_name(response.ref), "answered") for response in answered),
                *((version_name(bid.ref), "volunteered") for bid in offered),
            ]
        if recorded.get("kind") == "call" and "effect" in recorded["value"]:
            return [(effect_name(recorded["value"]["effect"]), "returned")]
        return []

    def _beginning(self, path: str, record: Entry) -> list[Source]:
        node = _graph_node(path)
        if node is not None:
            parent, superstep = node
            return self._last_nodes(parent, before=record.seq, superstep=superstep) or self._beginning(parent, record)
        round_id, _, agent = path.rpartition("/")
        bid = version_name(EntryVersionRef(topics.bids(self._run, round_id), agent, 1))
        if bid in self.records:
            return [(bid, "volunteered")]
        return [(version_name(EntryVersionRef(topics.RUNS, self._run, 1)), "started")]


def _position(key: str) -> tuple[str, Position]:
    """Split a step's key, ``path#attempt``, ``path#attempt:index`` or ``path#end``."""
    path, _, tail = key.rpartition("#")
    attempt, separator, index = tail.partition(":")
    if not attempt.isdecimal():
        return path, END
    return path, (int(attempt), -1.0 if not separator else float(index) if index.isdecimal() else math.inf)


def _graph_node(path: str) -> tuple[str, int] | None:
    """Split the path of an actor that is a node of a graph: the actor that runs the graph, and the superstep."""
    parent, _, place = path.rpartition(":")
    superstep, dot, name = place.partition(".")
    if not (dot and superstep.isdecimal()) or "/" in name or "#" in name:
        return None
    return parent, int(superstep)
