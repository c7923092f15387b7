"""Forbidden cycles among transactions: strongly connected components of their dependency graph, by kind of edge.

::

    G0             write dependencies (ww) alone
    G1c            write and read dependencies (ww, wr)
    G-single       and exactly one anti-dependency (rw): read skew, lost update
    G-nonadjacent  several anti-dependencies, no two in a row: long fork
    G2             two anti-dependencies in a row: write skew; the only one that snapshot isolation permits

``-process`` marks a cycle that needs the order in which one client did its transactions. After Adya, Liskov and O'Neil
(ICDE 2000) and Elle (VLDB 2020). Snapshot isolation forbids just the cycles without two neighbouring rw edges: such a
cycle is one of a graph in which a node remembers whether it was reached by an rw edge.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from agentsys.benchmarks.isolation.anomalies import Anomaly

EdgeKind: TypeAlias = Literal["ww", "wr", "rw", "process"]
Edge: TypeAlias = tuple[int, int]
WITNESS_STARTS: Final = 25
"""Nodes of a component from which a short cycle is sought: any cycle proves the anomaly, a short one explains it."""


@dataclass(slots=True)
class Dependencies:
    """Edges between the transactions ``0 … count - 1``; an edge from a to b says that a comes before b."""

    count: int
    edges: dict[EdgeKind, set[Edge]] = field(default_factory=lambda: defaultdict(set))

    def add(self, kind: EdgeKind, source: int, target: int) -> None:
        if source != target:
            self.edges[kind].add((source, target))


@dataclass(frozen=True, slots=True)
class _Pass:
    """One search: ``name`` is the kind of what it finds, of ``before`` edges, and ``rw`` ones unless ``rw`` is no."""

    name: str
    before: tuple[EdgeKind, ...]
    rw: Literal["no", "apart", "any"]


_PASSES: Final = (
    _Pass("G0", ("ww",), "no"),
    _Pass("G1c", ("ww", "wr"), "no"),
    _Pass("G-nonadjacent", ("ww", "wr"), "apart"),
    _Pass("G-nonadjacent-process", ("ww", "wr", "process"), "apart"),
    _Pass("G2", ("ww", "wr"), "any"),
    _Pass("G2-process", ("ww", "wr", "process"), "any"),
)


def find_cycles(
    dependencies: Dependencies, describe: Callable[[int], str] = lambda number: f"T{number}"
) -> list[Anomaly]:
    """Return one anomaly for each component that no stronger kind explains, with a short cycle of it."""
    explained: set[int] = set()
    found = []
    for search in _PASSES:
        edges = set(_edges(dependencies, search))
        for component in _components(2 * dependencies.count, edges):
            members = {node // 2 for node in component.following}
            if members & explained:
                continue
            explained |= members
            cycle = [node // 2 for node in component.short_cycle()]
            kinds = [_kind(dependencies, search, a, b) for a, b in pairwise(cycle)]
            name = search.name
            if kinds.count("rw") == 1:
                name = name.replace("nonadjacent", "single").replace("G2", "G-single")
            steps = [f"{describe(number)} -{kind}->" for number, kind in zip(cycle, kinds, strict=False)]
            found.append(Anomaly(name, f"{' '.join(steps)} {describe(cycle[-1])} ({len(members)} transactions)"))
    return found


def _edges(dependencies: Dependencies, search: _Pass) -> Iterator[Edge]:
    """Yield edges between nodes ``2t`` (transaction t) and ``2t + 1`` (t, reached by an rw edge that must end here)."""
    for kind in search.before:
        for a, b in dependencies.edges[kind]:
            yield 2 * a, 2 * b
            if search.rw == "apart":
                yield 2 * a + 1, 2 * b
    if search.rw != "no":
        for a, b in dependencies.edges["rw"]:
            yield 2 * a, 2 * b + (search.rw == "apart")


def _kind(dependencies: Dependencies, search: _Pass, source: int, target: int) -> EdgeKind:
    for kind in search.before:
        if (source, target) in dependencies.edges[kind]:
            return kind
    return "rw"


@dataclass(frozen=True, slots=True)
class _Component:
    """A strongly connected component of more than one node: each node with those that its edges lead to within it."""

    following: Mapping[int, list[int]]

    def short_cycle(self) -> list[int]:
        """Return a shortest cycle through one of the first nodes, its first node repeated at the end."""
        return min((self._cycle_through(start) for start in sorted(self.following)[:WITNESS_STARTS]), key=len)

    def _cycle_through(self, start: int) -> list[int]:
        came_from: dict[int, int] = {}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for after in self.following[node]:
                if after == start:
                    path = [start, node]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                if after not in came_from:
                    came_from[after] = node
                    waiting.append(after)
        raise AssertionError("a strongly connected component has a cycle through each of its nodes")


def _components(count: int, edges: Collection[Edge]) -> list[_Component]:
    if not edges:
        return []
    pairs = np.array(list(edges), dtype=np.int32)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=True, connection="strong")
    sources, targets = labels[pairs[:, 0]], labels[pairs[:, 1]]
    grouped: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    # No edge leads from a node to itself, so one within a component says that it has more than one node.
    for label, (a, b) in zip(sources[sources == targets], pairs[sources == targets].tolist(), strict=True):
        grouped[label][a].append(b)
    return [_Component(following) for following in grouped.values()]
