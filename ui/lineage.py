"""What the provenance of a value says, in words and as a graph. Nothing here depends on Streamlit."""

from dataclasses import replace

from agentsys.ui.dot import Arrow, Box, dot_source
from agentsys.views.provenance import LabelOrigin, Provenance, ProvenanceNode


def origin_text(found: Provenance, origin: LabelOrigin) -> str:
    """Return where an influencer came in and how it reached the value, on one line."""
    titles = [_title(node) for node in map(found.node, origin.path) if node is not None]
    if not titles:
        return f"{origin.influencer}: given to the value itself, by a record farther away than is shown"
    if len(titles) == 1:
        return f"{origin.influencer}: came in with the value itself, {titles[0]}"
    return f"{origin.influencer}: came in with {titles[0]}, then {' → '.join(titles[1:])}"


def essential(found: Provenance) -> Provenance:
    """Return only the value, the ways by which each part of its label came to it, and what it shaped next."""
    kept = {found.value, *(name for origin in found.origins for name in origin.path)}
    kept |= {node.id for node in found.nodes if node.side == "downstream" and node.steps == 1}
    return replace(found, nodes=tuple(node for node in found.nodes if node.id in kept))


def lineage_dot(found: Provenance, run: str) -> str:
    """Return the graph; a click on an entry opens its own provenance on the page of ``run``."""
    boxes = [
        Box(
            id=node.id,
            kind=node.kind,
            title=node.title,
            confidential=node.confidential,
            trusted=node.trusted,
            link=tuple(link_parameters(run, node.topic, node.key).items()) if node.topic else (),
            chosen=node.id == found.value,
        )
        for node in found.nodes
    ]
    return dot_source(boxes, [Arrow(edge.source, edge.target, edge.via) for edge in found.edges])


def link_parameters(run: str, topic: str, key: str) -> dict[str, str]:
    """Return the parameters of the run page's URL that show the provenance of an entry."""
    return {"run": run, "view": "Provenance", "topic": topic, "key": key}


def _title(node: ProvenanceNode) -> str:
    return f"{node.kind} {node.title}"
