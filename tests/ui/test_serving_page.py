"""The Serving page against a served runtime whose engine is scripted, and the figures behind it."""

from __future__ import annotations

import time

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.blackboard.board import Board
from agentsys.protocols.http.client import RuntimeClient
from agentsys.protocols.http.serving_documents import LatencyDocument, LoadDocument, ResidenceDocument
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.testing import ScriptedModel
from agentsys.ui import connection
from agentsys.ui.load_figures import due_text, headline, rate, residence_chips, seconds_text, share_text
from agentsys.ui.screens.addresses import SERVING_PAGE
from agentsys.workflow import Workflow
from tests.http.conftest import TOKEN, served
from tests.http.scripted_engine import ScriptedEngine


async def think(context, text):
    return (await context.generate(text)).value


@pytest.fixture
def serving(monkeypatch):
    """Serve a model; return what opens the page, and a client."""
    opened = []

    def serve(model):
        board = Board.open(":memory:")
        server = served(Runtime(board, model, workflows=[Workflow("think", think)]))
        url = str(server.__enter__().base_url)
        monkeypatch.setenv("AGENTSYS_URL", url)
        monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)
        client = RuntimeClient(url, TOKEN)
        opened.extend([client.close, lambda: server.__exit__(None, None, None), board.close])
        return client

    yield serve
    connection.connect().close()
    connection._client.cache_clear()
    for close in opened:
        close()


def page():
    app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30).switch_page(SERVING_PAGE).run()
    assert [error.value for error in app.exception] == []
    return app


def said(app):
    return "\n".join(str(piece.value) for piece in [*app.markdown, *app.caption, *app.info]).replace("\\", "")


@pytest.mark.parametrize("tells_queue", [True, False])
def test_the_queue_and_what_ended_are_shown(serving, tells_queue):
    engine = ScriptedEngine(tells_queue=tells_queue)
    client = serving(ServingClient({"scripted": engine}, "scripted"))
    assert "not loaded: the next call" in said(page())
    run = client.start("think", "hello")
    while not (load := client.serving()[0].load) or not load.requests or not load.requests[0].tokens:
        pass
    app = page()
    assert ":green-badge[loaded]" in said(app) and "1 load" in said(app)
    assert [metric.value for metric in app.metric][:2] == ["1 of 4", "0"]
    assert run in app.page_link[0].label and "2 tokens" in said(app) and "decode" in said(app)
    assert ("does not tell its queue" in said(app)) is not tells_queue
    engine.go_on.set()
    list(client.watch(run))
    app = page()
    assert "Nothing waits or runs." in said(app)
    assert run in app.dataframe[1].value["run"].tolist()


def test_a_server_without_engines_says_so(serving):
    serving(ScriptedModel(lambda prompt: ""))
    assert "no serving layer" in said(page())


def test_a_model_that_the_server_has_no_more_is_named(serving, monkeypatch):
    serving(ServingClient({"scripted": ScriptedEngine(tells_queue=True)}, "scripted"))
    monkeypatch.setattr(RuntimeClient, "serving", lambda client: [])
    assert "scripted" in said(page())


NONE = LatencyDocument(p50=None, p95=None, count=0)
STATS = {
    "running": 2,
    "waiting": 1,
    "slots": 0,
    "kv_used_blocks": 1,
    "kv_total_blocks": 4,
    "accepted_tokens": 0,
    "drafted_tokens": 0,
    "preemptions": 0,
}


RESIDENCE = ResidenceDocument(
    state="loaded ahead",
    memory_bytes=300 * 2**20,
    gpu_bytes=2**31,
    next_use=130.0,
    loads=12,
    loads_ahead=3,
    load_seconds=4.5,
    adapter_of=None,
)


def test_what_was_loaded_ahead_and_what_is_expected_next_is_told():
    assert [chip.text for chip in residence_chips(RESIDENCE)] == [
        "loaded ahead",
        "300 MiB",
        "2,048 MiB of the GPU",
        "next call expected in 2 min 10 s",
        "12 loads, 3 ahead of a call",
        "the last load took 4.5 s",
    ]
    quiet = {
        "state": "not loaded",
        "memory_bytes": 0,
        "gpu_bytes": 0,
        "next_use": None,
        "loads": 0,
        "load_seconds": None,
    }
    assert [chip.text for chip in residence_chips(RESIDENCE.model_copy(update=quiet))] == ["not loaded"]
    adapter = RESIDENCE.model_copy(update=quiet | {"adapter_of": "base"})
    assert [chip.text for chip in residence_chips(adapter)] == ["not loaded", "adapter of base"]


def test_figures_are_written_for_people():
    now = time.time()
    assert due_text(None, now) == "no hurry"
    assert due_text(now + 5, now) == "due in 5.0 s" and due_text(now - 70, now) == "overdue by 1 min 10 s"
    assert due_text(3.0, now).startswith("ahead of all")
    assert (share_text(1, 4), share_text(0, 0)) == ("25 %", "–")
    assert (seconds_text(None), seconds_text(0.0123), seconds_text(12)) == ("–", "12.3 ms", "12.0 s")
    # The second that goes on is not full yet.
    assert rate([0] * 289 + [20] * 10 + [1]) == 20 and rate([]) == 0


def test_what_an_engine_does_not_know_is_a_dash():
    load = LoadDocument(
        queue_known=False, requests=[], recent=[], queued=NONE, first_token=NONE, inter_token=NONE, tokens_per_second=[]
    )
    known = dict(headline(STATS, load))
    assert (known["running"], known["KV cache"], known["drafts accepted"]) == ("2", "–", "–")
    assert dict(headline(STATS, load.model_copy(update={"queue_known": True})))["KV cache"] == "25 %"
