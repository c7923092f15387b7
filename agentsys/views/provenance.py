"""Where a value came from and what it shaped, and at which record each part of its label came in."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Endorsement, Entry, Json
from agentsys.blackboard.labels import Label, join_all
from agentsys.tool_calls import label_of
from agentsys.views.derivation import Derivation, Source, Via, left_of, version_name
from agentsys.views.labels import ViewLabel, WithLabel
from agentsys.views.run_view import DecisionView, decision_view
from agentsys.views.withholding import content

MOST_RECORDS: Final = 400
"""Records in each direction; the nearest ones are kept."""

Side = Literal["value", "upstream", "downstream"]


@dataclass(frozen=True, slots=True)
class ProvenanceNode(WithLabel):
    """One version of an entry, or the outcome of a tool call (no topic); ``steps`` is how far it is from the value.

    ``gained`` and ``narrowed`` say what its label has beyond that of its sources: influencers, and fewer readers.
    ``lowered`` says that it has less, which only an endorsement does.
    """

    id: str
    topic: str
    key: str
    kind: str
    title: str
    side: Side
    steps: int
    seq: int
    writer: str
    value: Json = field(metadata=content())
    label: ViewLabel
    gained: tuple[str, ...]
    narrowed: bool
    lowered: bool
    endorsement: Endorsement | None = field(metadata=content())
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class ProvenanceEdge:
    """``source`` came to ``target``, and how."""

    source: str
    target: str
    via: Via


@dataclass(frozen=True, slots=True)
class LabelOrigin:
    """The record at which an influencer came in, and the way from there to the value."""

    influencer: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """A value, its derivation upstream and what it shaped downstream in its run, the nearest first.

    ``denials`` are what the gateway refused to whoever knew the value, or, of a decision, that decision.
    ``cut`` says that farther records are left out.
    """

    value: str
    nodes: tuple[ProvenanceNode, ...]
    edges: tuple[ProvenanceEdge, ...]
    origins: tuple[LabelOrigin, ...]
    denials: tuple[DecisionView, ...]
    cut: bool

    def node(self, identity: str) -> ProvenanceNode | None:
        return next((node for node in self.nodes if node.id == identity), None)


def load_provenance(board: Board, topic: str, key: str, version: int | None = None) -> Provenance | None:
    """Read the provenance of one version of an entry, by default the newest; ``None`` if there is no such version."""
    versions = [entry for entry in board.history(topic, key) if version in (None, entry.version)]
    if not versions:
        return None
    derivation = Derivation(board, versions[-1].run)
    root = version_name(versions[-1].ref)
    derivation.records.setdefault(root, versions[-1])
    sources = {name: derivation.sources(name) for name in list(derivation.records)}
    upstream, ways = _reach(root, lambda name: derivation.sources(name))
    downstream, _ = _reach(root, _reversed(sources).__getitem__)
    sides: dict[str, tuple[Side, int]] = {name: ("downstream", steps) for name, steps in downstream.items()}
    sides |= {name: ("upstream", steps) for name, steps in upstream.items()} | {root: ("value", 0)}
    nodes = [_node(derivation, name, *place) for name, place in sides.items()]
    known = {node.id for node in nodes}
    return Provenance(
        value=root,
        nodes=tuple(sorted(nodes, key=lambda node: (node.steps, node.seq, node.id))),
        edges=tuple(
            ProvenanceEdge(source, name, via)
            for name in known
            for source, via in derivation.sources(name)
            if source in known
        ),
        origins=tuple(_origins(nodes, root, ways)),
        denials=tuple(_denials(derivation, [root, *downstream])),
        cut=len(upstream) >= MOST_RECORDS or len(downstream) >= MOST_RECORDS,
    )


def _reach(root: str, neighbours: Callable[[str], Iterable[Source]]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the distance of each record that can be reached, nearest first, and the next one on the way back."""
    distance, back, waiting = {root: 0}, dict[str, str](), deque([root])
    while waiting and len(distance) <= MOST_RECORDS:
        name = waiting.popleft()
        for found, _ in neighbours(name):
            if found not in distance:
                distance[found], back[found] = distance[name] + 1, name
                waiting.append(found)
    del distance[root]
    return distance, back


def _reversed(sources: dict[str, list[Source]]) -> dict[str, list[Source]]:
    turned: dict[str, list[Source]] = {name: [] for name in sources}
    for name, found in sources.items():
        for source, via in found:
            turned.setdefault(source, []).append((name, via))
    return turned


def _node(derivation: Derivation, name: str, side: Side, steps: int) -> ProvenanceNode:
    record = derivation.records[name]
    sources = [derivation.records[source] for source, _ in derivation.sources(name)]
    label, below = _label(record), join_all(_label(source) for source in sources)
    kind, title, writer, value = _described(record)
    return ProvenanceNode(
        id=name,
        topic=record.topic if isinstance(record, Entry) else "",
        key=record.key if isinstance(record, Entry) else record.id,
        kind=kind,
        title=title,
        side=side,
        steps=steps,
        seq=record.seq,
        writer=writer,
        value=value,
        label=label,
        gained=tuple(sorted(label.shaped_by - below.shaped_by)),
        narrowed=not label.readers.permits(below.readers),
        lowered=not below.flows_to(label),
        endorsement=record.endorsement if isinstance(record, Entry) else None,
    )


def _label(record: Entry | Effect) -> Label:
    return record.label if isinstance(record, Entry) else label_of(record)


def _described(record: Entry | Effect) -> tuple[str, str, str, Json]:
    """Return kind, title, writer and value; the title is an address, never part of the value."""
    if isinstance(record, Effect):
        return "tool result", f"{record.intent.tool} {record.state}", "runtime", record.result
    own = topics.is_reserved(record.topic)
    kind = f"step: {left_of(record).get('kind', 'erased')}" if own and record.type == "step" else record.type
    shown = record.key if own else f"{record.topic}/{record.key}"
    return kind, f"{shown} v{record.version}", record.writer, record.value


def _origins(nodes: Iterable[ProvenanceNode], root: str, ways: dict[str, str]) -> Iterable[LabelOrigin]:
    """Yield, for each who shaped the value, the nearest record upstream that has it and got it from no source."""
    near = sorted((node for node in nodes if node.side != "downstream"), key=lambda node: (node.steps, node.seq))
    value = next(node for node in near if node.id == root)
    for influencer in sorted(value.label.shaped_by):
        found = next((node.id for node in near if influencer in node.gained), None)
        path = [] if found is None else [found]
        while path and path[-1] != root:
            path.append(ways[path[-1]])
        yield LabelOrigin(influencer, tuple(path))


def _denials(derivation: Derivation, names: Iterable[str]) -> Iterable[DecisionView]:
    for name in names:
        record = derivation.records[name]
        if not isinstance(record, Entry) or record.type != "decision" or not topics.is_reserved(record.topic):
            continue
        if left_of(record):
            decision = decision_view(record)
            if not decision.allowed:
                yield decision
