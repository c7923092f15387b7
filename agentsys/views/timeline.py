"""When the steps of a run happened, as spans of time."""

from dataclasses import dataclass

from agentsys.views.run_graph import GraphNode, RunGraph


@dataclass(frozen=True, slots=True)
class Span:
    """A step of a run from ``start`` to ``end``, in seconds since the run began; a mere moment where they are equal."""

    node: GraphNode
    start: float
    end: float


def run_spans(graph: RunGraph) -> tuple[Span, ...]:
    """Return the steps in the order in which they began.

    A response lasts from the bid, or request, that it hangs on; a request to the last response that hangs below it; the
    run to the last step.
    """
    if not graph.nodes:
        return ()
    known = {node.id: node for node in graph.nodes}
    parents = {edge.target: edge.source for edge in graph.edges}
    began = min(node.at - (node.seconds or 0) for node in graph.nodes)
    last = dict[str, float]()
    for node in graph.nodes:
        above: str | None = node.id
        while above is not None:
            last[above] = max(last.get(above, node.at), node.at)
            above = parents.get(above)
    spans = [_span(node, known.get(parents.get(node.id, "")), last[node.id], began) for node in graph.nodes]
    return tuple(sorted(spans, key=lambda span: (span.start, span.node.kind != "run", span.node.seq)))


def _span(node: GraphNode, parent: GraphNode | None, last: float, began: float) -> Span:
    start, end = node.at, node.at
    if node.kind == "model call":
        start = node.at - (node.seconds or 0)
    elif node.kind in ("run", "request"):
        start, end = began if node.kind == "run" else node.at, last
    elif node.kind == "response" and parent is not None:
        # The clock may have gone back meanwhile.
        start = min(parent.at, node.at)
    return Span(node, start - began, end - began)
