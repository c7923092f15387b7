"""The graph of a run, and the step that the URL names, ``?step=TOPIC/KEY``."""

from typing import Final

import streamlit as st

from agentsys.ui.dot import LONGEST_TITLE, Arrow, Box, dot_source
from agentsys.ui.formatting import escape_markdown
from agentsys.ui.screens.scrubber import draw_scrubber
from agentsys.ui.screens.widgets import draw_label, draw_value
from agentsys.ui.snapshot import Snapshot
from agentsys.views.run_graph import GraphNode, RunGraph
from agentsys.views.texts import shorten

STEP: Final = "step"
MOST_COMMITS: Final = 1000
MOST_DRAWN: Final = 150


def draw_graph(snapshot: Snapshot, run: str) -> None:
    """Draw the graph of ``run``, as of the commit that the slider stands at, and the step that the URL names."""
    commits = snapshot.look(snapshot.views.commits, run=run, limit=MOST_COMMITS)
    at = draw_scrubber([row.seq for row in reversed(commits)])
    graph = snapshot.look(snapshot.views.graph, run, at)
    shown = RunGraph(graph.nodes[:MOST_DRAWN], graph.edges)
    st.graphviz_chart(run_dot(shown, run))
    rest = len(graph.nodes) - len(shown.nodes)
    st.caption(
        "Filled: not everyone may read it. Dashed border: others than people shaped it. Each node says so in words; a "
        f"click opens it.{f' {rest} later nodes are not drawn.' if rest > 0 else ''}"
    )
    _draw_chosen(graph)


def _draw_chosen(graph: RunGraph) -> None:
    asked = st.query_params.get(STEP)
    titles = {node.id: f"{node.seq}. {node.kind}: {shorten(node.title, LONGEST_TITLE)}" for node in graph.nodes}
    choices = list(titles)
    st.selectbox(
        "Step",
        choices,
        index=choices.index(asked) if asked in titles else None,
        format_func=lambda identity: titles.get(identity, identity),
        placeholder="choose one to see it in full",
        # A key for each choice of the URL, which a click on the graph changes too.
        key=f"{STEP}_{asked}",
        on_change=_choose,
        args=(f"{STEP}_{asked}",),
    )
    node = graph.node(asked) if asked else None
    if node is not None:
        _draw_node(node)
    elif asked:
        st.warning(escape_markdown(f"This run has no step {asked} here."), icon=":material/warning:")


def _choose(key: str) -> None:
    chosen = st.session_state[key]
    if chosen is None:
        st.query_params.pop(STEP, None)
    else:
        st.query_params[STEP] = chosen


def run_dot(graph: RunGraph, run: str) -> str:
    """Return the graph in Graphviz's language; a click on a node opens it on the page of ``run``."""
    boxes = [
        Box(node.id, node.kind, node.title, node.confidential, node.trusted, (("run", run), (STEP, node.id)))
        for node in graph.nodes
    ]
    return dot_source(boxes, [Arrow(edge.source, edge.target) for edge in graph.edges])


def _draw_node(node: GraphNode) -> None:
    with st.container(border=True):
        st.markdown(f"##### {escape_markdown(node.kind)} {escape_markdown(node.title)}")
        draw_label(node.label)
        st.caption(escape_markdown(f"{node.id} · commit {node.seq:,}"))
        if node.withheld:
            st.text("withheld: its label lets others read it, not the owner")
        else:
            draw_value(node.value)
        if node.derived_from:
            sources = ", ".join(f"{ref.topic}/{ref.key} v{ref.version}" for ref in node.derived_from)
            st.caption("Derived from " + escape_markdown(sources))
