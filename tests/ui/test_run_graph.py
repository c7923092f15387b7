"""The graph of a run: every recorded step once, connected, as of any commit; drawn, and inspected by URL."""

from __future__ import annotations

import re

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.blackboard.labels import Label
from agentsys.runs import UnknownRun
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.run_graph import dot_source
from agentsys.views.run_graph import GraphNode, RunGraph, load_graph

ASKED = {"question": "How many are there?", "number": 21}


def test_every_recorded_step_hangs_on_the_run(recorded):
    run = recorded.run("question", ASKED).run
    graph = load_graph(recorded.board, run)
    assert {"run", "request", "volunteer", "response", "model call", "decision"} <= {n.kind for n in graph.nodes}
    parents = {edge.target: edge.source for edge in graph.edges}
    for node in graph.nodes:
        at = node.id
        while at in parents:
            at = parents[at]
        assert at == f"runs/{run}"


def test_a_response_hangs_on_the_bid_of_its_agent(recorded):
    run = recorded.run("question", ASKED).run
    graph = load_graph(recorded.board, run)
    response = next(n for n in graph.nodes if n.kind == "response" and n.title == "eager ok")
    (edge,) = [edge for edge in graph.edges if edge.target == response.id]
    source = graph.node(edge.source)
    assert source is not None
    assert (source.kind, source.title) == ("volunteer", "eager 0.90")


def test_the_graph_of_an_earlier_commit_holds_nothing_later(recorded):
    run = recorded.run("question", ASKED).run
    whole = load_graph(recorded.board, run)
    earlier = load_graph(recorded.board, run, at=3)
    assert 0 < len(earlier.nodes) < len(whole.nodes)
    assert all(node.seq <= 3 for node in earlier.nodes)


def test_an_unknown_run_is_an_error(recorded):
    with pytest.raises(UnknownRun):
        load_graph(recorded.board, "nobody")


def test_hostile_names_stay_inside_their_quotes():
    title = 'x"]; evil [URL="http://evil.example"\\'
    node = GraphNode("runs/a", "run", title, 1, Label(), None, ())
    line = dot_source(RunGraph((node,), ())).splitlines()[-2]
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
    assert "evil" in line
    assert "evil" not in outside
    assert "URL" not in outside


def test_a_step_is_addressed_by_its_url(recorded, path, monkeypatch):
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(path))
    run = recorded.run("question", ASKED).run
    step = next(n.id for n in load_graph(recorded.board, run).nodes if n.kind == "model call")
    for asked, expected in ((step, "model call generate"), ("nothing", "has no step nothing")):
        app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30).run()
        app.switch_page(RUN_PAGE)
        app.query_params["run"], app.query_params["step"] = run, asked
        app.run()
        assert not app.exception
        said = "\n".join(str(piece.value) for piece in [*app.markdown, *app.warning]).replace("\\", "")
        assert expected in said
