"""The graph of a run, and the step that the URL names, ``?step=TOPIC/KEY``."""

from typing import Final

import streamlit as st

from agentsys.blackboard.board import Board
from agentsys.ui.formatting import escape_markdown
from agentsys.ui.screens.widgets import draw_label, draw_value
from agentsys.views.run_graph import GraphNode, RunGraph, load_graph
from agentsys.views.texts import shorten

LONGEST_TITLE: Final = 40
MOST_DRAWN: Final = 150


def draw_graph(board: Board, run: str, step: str | None) -> None:
    """Draw the graph of ``run``, and ``step`` in full."""
    graph = load_graph(board, run)
    st.markdown("##### Graph")
    shown = RunGraph(graph.nodes[:MOST_DRAWN], graph.edges)
    st.graphviz_chart(dot_source(shown))
    rest = len(graph.nodes) - len(shown.nodes)
    st.caption(
        "Filled: not everyone may read it. Dashed border: others than people shaped it. Each node says so in words."
        + (f" {rest} later nodes are not drawn." if rest > 0 else "")
    )
    if step is None:
        return
    node = graph.node(step)
    if node is None:
        st.warning(escape_markdown(f"This run has no step {step}."), icon=":material/warning:")
    else:
        _draw_node(node)


def dot_source(graph: RunGraph) -> str:
    """Return the graph in Graphviz's language; every text in it is quoted."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["digraph {", "rankdir=LR; bgcolor=transparent;", 'node [shape=box fontname="sans-serif" fontsize=11];']
    # A grey that both themes show: the chart is drawn over the page's own background.
    lines.append('edge [color="#888888"];')
    lines += [f"{names[node.id]} [{_attributes(node)}];" for node in graph.nodes]
    lines += [
        f"{names[edge.source]} -> {names[edge.target]};"
        for edge in graph.edges
        if edge.source in names and edge.target in names
    ]
    return "\n".join([*lines, "}"])


def _attributes(node: GraphNode) -> str:
    readers = "restricted" if node.confidential else "public"
    trust = "trusted" if node.trusted else "untrusted"
    text = "\n".join((node.kind, shorten(node.title, LONGEST_TITLE), f"{readers}, {trust}"))
    fill = "#d9c8f5" if node.confidential else "#f2f2f2"
    style = "filled" if node.trusted else "filled,dashed"
    return f'label={_quoted(text)} style="{style}" fillcolor="{fill}" color="#b35900" fontcolor="#111111"'


def _quoted(text: str) -> str:
    # A backslash begins an escape such as \N in Graphviz's labels.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _draw_node(node: GraphNode) -> None:
    with st.container(border=True):
        st.markdown(f"##### {escape_markdown(node.kind)} {escape_markdown(node.title)}")
        draw_label(node.label)
        st.caption(escape_markdown(f"{node.id} · commit {node.seq:,}"))
        draw_value(node.value)
        if node.derived_from:
            sources = ", ".join(f"{ref.topic}/{ref.key} v{ref.version}" for ref in node.derived_from)
            st.caption("Derived from " + escape_markdown(sources))
