"""A run as a graph: what asked whom, which calls were made, what the gateway decided, what came of what."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json
from agentsys.blackboard.predicates import Predicate
from agentsys.runs import RunRecord
from agentsys.views.labels import ViewLabel, WithLabel
from agentsys.views.run_list import MODEL_STEPS
from agentsys.views.withholding import content

NodeKind = Literal["run", "request", "volunteer", "response", "model call", "step", "decision"]


@dataclass(frozen=True, slots=True)
class GraphNode(WithLabel):
    """One recorded entry. ``id`` is its topic and key; ``seq`` is the commit that wrote it, ``at`` in unix seconds.

    ``seconds`` is how long a model call took.
    """

    id: str
    kind: NodeKind
    title: str = field(metadata=content(hidden="withheld"))
    seq: int
    at: float
    seconds: float | None
    label: ViewLabel
    value: Json = field(metadata=content())
    derived_from: tuple[EntryVersionRef, ...]
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """``source`` led to ``target``."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class RunGraph:
    """Nodes in the order of their commits, and the edges between them."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    def node(self, identity: str) -> GraphNode | None:
        return next((node for node in self.nodes if node.id == identity), None)


def load_graph(board: Board, run: str, at: int | None = None) -> RunGraph:
    """Read the graph of a run, now or as it was after commit ``at``. Raises :class:`UnknownRun`."""
    RunRecord.load(board, run)
    record = board.get(topics.RUNS, run, at=at)
    recorded = board.query(Predicate(topic_prefix=f"{topics.RESERVED_PREFIX}{run}/"), at=at)
    entries = ([record] if record else []) + sorted(recorded, key=lambda entry: (entry.seq, entry.topic, entry.key))
    nodes = [node for node in (_node(run, entry) for entry in entries) if node is not None]
    return RunGraph(tuple(nodes), tuple(_edges(run, entries, {node.id for node in nodes})))


def identity(topic: str, key: str) -> str:
    """Return the name of a node: the entry's address as one text."""
    return f"{topic}/{key}"


def _node(run: str, entry: Entry) -> GraphNode | None:
    described = _described(run, entry)
    if described is None:
        return None
    kind, title = described
    return GraphNode(
        id=identity(entry.topic, entry.key),
        kind=kind,
        title=title,
        seq=entry.seq,
        at=entry.committed_at,
        seconds=_seconds(kind, entry),
        label=entry.label,
        value=entry.value,
        derived_from=entry.derived_from,
    )


def _seconds(kind: NodeKind, entry: Entry) -> float | None:
    recorded: Any = entry.value
    return recorded["value"].get("seconds") if kind == "model call" else None


def _described(run: str, entry: Entry) -> tuple[NodeKind, str] | None:
    value: Any = entry.value
    if entry.topic == topics.RUNS:
        return "run", value["workflow"]
    if entry.topic == topics.requests(run):
        return "request", value["kind"]
    if entry.topic.startswith(topics.bids(run, "")):
        return "volunteer", f"{entry.key} {value['score']:.2f}"
    if entry.topic.startswith(topics.responses(run, "")):
        return "response", f"{entry.key} {value['status']}"
    if entry.topic == topics.steps(run):
        if value["kind"] == "node":
            return "step", f"node {entry.key.rpartition(':')[2].removesuffix('#end').partition('.')[2]}"
        remembered = isinstance(value["value"], dict) and "memo" in value["value"]
        title = f"{value['kind']} from memo" if remembered else value["kind"]
        return ("model call" if value["kind"] in MODEL_STEPS else "step"), title
    if entry.topic == topics.decisions(run):
        return "decision", f"{'allowed' if value['allowed'] else 'denied'}: {value['action']}"
    return None


def _edges(run: str, entries: Iterable[Entry], known: set[str]) -> Iterable[GraphEdge]:
    for entry in entries:
        target = identity(entry.topic, entry.key)
        if target not in known or entry.topic == topics.RUNS:
            continue
        yield GraphEdge(_parent(run, entry, known), target)


def _parent(run: str, entry: Entry, known: set[str]) -> str:
    """Return what led to ``entry``: a request for bids, a bid for its agent's steps and response, a step for decisions.

    Whatever else there is hangs on the run.
    """
    candidates = list[str]()
    if entry.topic.startswith(topics.responses(run, "")):
        round_id = entry.topic.removeprefix(topics.responses(run, ""))
        candidates += [identity(topics.bids(run, round_id), entry.key), identity(topics.requests(run), round_id)]
    elif entry.topic.startswith(topics.bids(run, "")):
        candidates.append(identity(topics.requests(run), entry.topic.removeprefix(topics.bids(run, ""))))
    elif entry.topic == topics.steps(run):
        round_id, _, agent = entry.key.rpartition("#")[0].rpartition("/")
        candidates.append(identity(topics.bids(run, round_id), agent))
    elif entry.topic == topics.decisions(run):
        candidates.append(identity(topics.steps(run), entry.key.rpartition("/")[0]))
    return next((found for found in candidates if found in known), identity(topics.RUNS, run))
