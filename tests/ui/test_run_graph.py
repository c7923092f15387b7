"""The graph of a run: every recorded step once, connected, as of any commit; drawn, and inspected by URL."""

from __future__ import annotations

import re

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.blackboard.labels import Label
from agentsys.runs import UnknownRun
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.run_graph import run_dot
from agentsys.views.run_graph import GraphEdge, GraphNode, RunGraph, load_graph
from agentsys.views.timeline import run_spans
from tests.http.conftest import TOKEN, served
from tests.ui.conftest import forget_the_client

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
    node = GraphNode("runs/a", "run", title, 1, 1.0, None, Label(), None, ())
    line = run_dot(RunGraph((node,), ()), "a").splitlines()[-2]
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
    assert "evil" in line
    assert "evil" not in outside
    assert outside.count("URL") == 1


def test_a_node_links_to_itself():
    node = GraphNode("runs/a/steps/main#1:0000", "step", "ask", 1, 1.0, None, Label(), None, ())
    line = run_dot(RunGraph((node,), ()), "a").splitlines()[-2]
    assert 'URL="?run=a&step=runs%2Fa%2Fsteps%2Fmain%231%3A0000" target="_self"' in line


@pytest.fixture
def browse(recorded, monkeypatch):
    with served(recorded.runtime) as client:
        monkeypatch.setenv("AGENTSYS_URL", str(client.base_url))
        monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)

        def open_page(**parameters):
            app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30)
            app.switch_page(RUN_PAGE)
            app.query_params.update(parameters)
            return app.run()

        yield open_page
        forget_the_client()


def said(app):
    assert not app.exception
    return "\n".join(str(piece.value) for piece in [*app.markdown, *app.warning]).replace("\\", "")


def test_a_step_is_addressed_by_its_url(recorded, browse):
    run = recorded.run("question", ASKED).run
    step = next(n.id for n in load_graph(recorded.board, run).nodes if n.kind == "model call")
    assert "model call generate" in said(browse(run=run, step=step))
    assert "has no step nothing" in said(browse(run=run, step="nothing"))


def test_a_chosen_step_is_in_the_url(recorded, browse):
    run = recorded.run("question", ASKED).run
    app = browse(run=run, view="Graph")
    (choice,) = [box for box in app.selectbox if box.label == "Step"]
    step = next(n.id for n in load_graph(recorded.board, run).nodes if n.kind == "request")
    choice.select(step).run()
    assert "##### request number" in said(app)
    assert app.query_params["step"] == step


def test_the_graph_goes_back_to_a_commit(recorded, browse):
    run = recorded.run("question", ASKED).run
    pages = browse(run=run, view="Graph", at="3"), browse(run=run, view="Graph")
    drawn = [page.get("graphviz_chart")[0].proto.spec for page in pages]
    assert drawn[0].count("fillcolor") < drawn[1].count("fillcolor")


def test_spans_cover_what_hangs_below(recorded):
    run = recorded.run("question", ASKED).run
    graph = load_graph(recorded.board, run)
    spans = {span.node.id: span for span in run_spans(graph)}
    assert len(spans) == len(graph.nodes)
    whole = spans[f"runs/{run}"]
    assert (whole.start, whole.end) == (0.0, max(span.end for span in spans.values()))
    for edge in graph.edges:
        assert spans[edge.source].start <= spans[edge.target].end <= whole.end
    assert all(0 <= span.start <= span.end for span in spans.values())


def test_a_model_call_lasts_as_long_as_it_took():
    run = GraphNode("runs/a", "run", "w", 1, 100.0, None, Label(), None, ())
    call = GraphNode("runs/a/steps/s", "model call", "generate", 2, 103.0, 2.5, Label(), None, ())
    spans = run_spans(RunGraph((run, call), ()))
    assert [(span.start, span.end) for span in spans] == [(0.0, 0.0), (0.5, 3.0)]


def test_no_step_ends_before_it_starts_though_the_clock_went_back():
    run = GraphNode("runs/a", "run", "w", 1, 100.0, None, Label(), None, ())
    bid = GraphNode("runs/a/bids/r/b", "volunteer", "b", 2, 110.0, None, Label(), None, ())
    response = GraphNode("runs/a/responses/r/b", "response", "b", 3, 90.0, None, Label(), None, ())
    spans = run_spans(RunGraph((run, bid, response), (GraphEdge(run.id, bid.id), GraphEdge(bid.id, response.id))))
    assert all(0 <= span.start <= span.end for span in spans)


def test_an_agents_steps_hang_on_its_bid(recorded):
    run = recorded.run("question", ASKED).run
    graph = load_graph(recorded.board, run)
    parents = {edge.target: edge.source for edge in graph.edges}
    (call,) = [node.id for node in graph.nodes if node.kind == "step" and node.title == "call"]
    assert parents[call].endswith("/eager")
    assert "/bids/" in parents[call]
