"""The graph of a run, and the step that the URL names, ``?step=TOPIC/KEY``."""

from typing import Final
from urllib.parse import urlencode

import streamlit as st

from agentsys.ui.formatting import escape_markdown
from agentsys.ui.screens.scrubber import draw_scrubber
from agentsys.ui.screens.widgets import draw_label, draw_value
from agentsys.ui.snapshot import Snapshot
from agentsys.views.run_graph import GraphNode, RunGraph
from agentsys.views.texts import shorten

STEP: Final = "step"
LONGEST_TITLE: Final = 40
MOST_COMMITS: Final = 1000
MOST_DRAWN: Final = 150


def draw_graph(snapshot: Snapshot, run: str) -> None:
    """Draw the graph of ``run``, as of the commit that the slider stands at, and the step that the URL names."""
    commits = snapshot.look(snapshot.views.commits, run=run, limit=MOST_COMMITS)
    at = draw_scrubber([row.seq for row in reversed(commits)])
    graph = snapshot.look(snapshot.views.graph, run, at)
    shown = RunGraph(graph.nodes[:MOST_DRAWN], graph.edges)
    st.graphviz_chart(dot_source(shown, run))
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


def dot_source(graph: RunGraph, run: str = "") -> str:
    """Return the graph in Graphviz's language; every text in it is quoted. A node links to its own page of ``run``."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["digraph {", "rankdir=LR; bgcolor=transparent;", 'node [shape=box fontname="sans-serif" fontsize=11];']
    # A grey that both themes show: the chart is drawn over the page's own background.
    lines.append('edge [color="#888888"];')
    lines += [f"{names[node.id]} [{_attributes(node, run)}];" for node in graph.nodes]
    lines += [
        f"{names[edge.source]} -> {names[edge.target]};"
        for edge in graph.edges
        if edge.source in names and edge.target in names
    ]
    return "\n".join([*lines, "}"])


def _attributes(node: GraphNode, run: str) -> str:
    readers = "restricted" if node.confidential else "public"
    trust = "trusted" if node.trusted else "untrusted"
    text = "\n".join((node.kind, shorten(node.title, LONGEST_TITLE), f"{readers}, {trust}"))
    fill = "#d9c8f5" if node.confidential else "#f2f2f2"
    style = "filled" if node.trusted else "filled,dashed"
    link = _quoted("?" + urlencode({"run": run, STEP: node.id}))
    look = f'style="{style}" fillcolor="{fill}" color="#b35900" fontcolor="#111111"'
    return f'label={_quoted(text)} {look} URL={link} target="_self" tooltip={_quoted(node.kind)}'


def _quoted(text: str) -> str:
    # A backslash begins an escape such as \N in Graphviz's labels.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


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
