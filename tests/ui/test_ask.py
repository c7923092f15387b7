"""The Ask page against a served runtime, and the logic behind it."""

from __future__ import annotations

import json
import shlex
import time

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.agents import Bid, FunctionAgent
from agentsys.blackboard.board import Board
from agentsys.protocols.http.schemas import EventDocument
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.ui.progress import AskedApproval, OpenRound, RunProgress, StreamedCall
from agentsys.ui.questions import InputUnreadable, Question, examples_for, in_order
from agentsys.ui.screens.addresses import ASK_PAGE
from agentsys.workflow import Workflow
from tests.http.conftest import TOKEN, served
from tests.ui.conftest import forget_the_client


async def ask(context, value):
    outcome = await context.ask("data", value)
    plan = await context.generate(f"Plan for {value['question']}")
    return {
        "answer": outcome.answers[0].value,
        "plan": plan.value,
        "sources": [{"family": "airports", "files": ["airports.csv"], "columns": ["state"]}],
    }


async def shout(context, value):
    return {"shouted": value}


async def counts(context, request):
    """airports: airports.csv, 3376 rows, columns name, state"""
    return 209


@pytest.fixture
def console(monkeypatch):
    """Serve workflows and return what opens the Ask page on them."""
    agent = FunctionAgent(counts, "files.airports", frozenset({"data"}), lambda request: Bid("files.airports", 0.9))
    with Board.open(":memory:") as board:

        def open_page(*workflows, **parameters):
            monkeypatch.setenv("AGENTSYS_URL", str(client.base_url))
            monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)
            runtime.workflows.clear()
            runtime.workflows.update({workflow.name: workflow for workflow in workflows})
            app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30)
            app.switch_page(ASK_PAGE)
            app.query_params.update(parameters)
            return app.run()

        runtime = Runtime(board, ScriptedModel(lambda prompt: "SELECT 209"), agents=[agent])
        with served(runtime) as client:
            yield open_page
            forget_the_client()


def said(app):
    assert [error.value for error in app.exception] == []
    pieces = [*app.markdown, *app.caption, *app.info, *app.error, *app.warning, *app.subheader, *app.text, *app.code]
    return "\n".join(str(piece.value) for piece in pieces).replace("\\", "")


def until(app, text):
    end = time.monotonic() + 20
    while text not in said(app) and time.monotonic() < end:
        app.run()
    assert text in said(app)


def run_of(app):
    return app.query_params["run"][0] if isinstance(app.query_params["run"], list) else app.query_params["run"]


def test_a_question_becomes_a_run_and_its_answer_is_shown(console):
    app = console(Workflow("ask", ask))
    app.text_input[0].set_value("How many?")
    app.button[-1].click().run()
    until(app, "209")
    text = said(app)
    for part in (
        "How many?",
        "SELECT 209",
        "readable by user:owner",
        "done",
        "asked for",
        "files.airports volunteered",
    ):
        assert part in text, part
    assert "agentsys ask --lake DIR 'How many?'" in text


def test_the_url_of_a_run_shows_it_again(console):
    app = console(Workflow("ask", ask))
    app.text_input[0].set_value("How many?")
    app.button[-1].click().run()
    until(app, "209")
    assert "209" in said(console(Workflow("ask", ask), run=run_of(app)))


def test_what_there_is_to_ask_about_is_shown(console):
    app = console(Workflow("ask", ask))
    assert app.expander[0].label == "The data: 1 table"
    assert app.expander[0].dataframe[0].value.to_dict("records") == [
        {"table": "airports", "what it holds": "airports.csv, 3376 rows, columns name, state"}
    ]
    assert not console(Workflow("shout", shout)).expander


def test_an_example_is_asked_at_once(console):
    app = console(Workflow("ask", ask))
    assert "airports" in app.button[0].label
    app.button[0].click().run()
    until(app, "209")


def test_other_workflows_take_text_or_json(console):
    app = console(Workflow("shout", shout))
    app.text_area[0].set_value('{"a": [1')
    app.checkbox[0].check()
    app.button[0].click().run()
    assert "AGS-0750" in said(app)
    app.text_area[0].set_value('{"a": [1]}')
    app.button[0].click().run()
    until(app, "done")
    assert json.loads(app.json[0].value) == {"shouted": {"a": [1]}}
    app.text_area[0].set_value('{"question": "why?"}')
    app.button[0].click().run()
    until(app, '"question": "why?"')
    assert """agentsys runs start shout --input '{"question": "why?"}'""" in said(app)


def test_a_server_without_workflows_says_what_to_do(console):
    assert "agentsys console --lake DIR" in said(console())


def test_an_empty_question_starts_nothing(console):
    app = console(Workflow("ask", ask))
    app.button[-1].click().run()
    assert "AGS-0750" in said(app) and "run" not in app.query_params


def test_an_unknown_run_and_a_missing_server_are_told(console, monkeypatch):
    assert "AGS-0601" in said(console(Workflow("ask", ask), run="none"))
    forget_the_client()
    monkeypatch.setenv("AGENTSYS_URL", "http://127.0.0.1:9")
    app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30)
    assert "AGS-0708" in said(app.switch_page(ASK_PAGE).run())


def test_what_is_not_known_of_a_model_is_not_drawn_as_markdown(console):
    evil = "![x](http://evil.example/x.png)"
    app = console(Workflow("shout", shout))
    app.text_area[0].set_value(evil)
    app.button[0].click().run()
    until(app, "done")
    assert not any(evil in str(piece.value) for piece in [*app.markdown, *app.subheader, *app.caption])


def events(*pairs):
    return [EventDocument(number=number, type=kind, data=data) for number, (kind, data) in enumerate(pairs, 1)]


BID = {"round": "r", "agent": "a", "score": 0.5, "reason": "fits", "chosen": True}
PIECE = {"call": "c", "agent": "plan", "tokens": 2}


def test_progress_grows_with_events_and_takes_none_twice():
    progress = RunProgress("x")
    told = events(
        ("request_posted", {"round": "r", "kind": "data", "value": 1, "asked_by": "discover"}),
        ("bid_made", BID),
        ("responded", {"round": "r", "agent": "a", "status": "ok"}),
        ("round_closed", {"round": "r", "outcome": "answered", "label": {}}),
        ("tokens_streamed", PIECE | {"text": "SELECT "}),
        ("tokens_streamed", PIECE | {"text": "1"}),
    )
    progress.take(told[:5])
    progress.take(told)
    opened, call = progress.steps
    assert isinstance(opened, OpenRound) and isinstance(call, StreamedCall)
    assert (opened.outcome, call.text, progress.tokens, progress.after) == ("answered", "SELECT 1", 4, 6)
    assert opened.offers[0].text(opened.answered["a"]) == "a volunteered with 0.50: fits (answered)"


def test_a_round_whose_beginning_was_dropped_is_shown_still():
    progress = RunProgress("x")
    progress.take(events(("bid_made", BID)))
    assert progress.steps[0].offers[0].text(None).endswith("(chosen)")


def test_an_approval_is_awaited_until_the_word_comes():
    progress = RunProgress("x")
    asked = {"approval": "1", "agent": "a", "kind": "call", "subject": "send", "arguments": {}, "reason": "it mails"}
    decided = {"approval": "1", "agent": "a", "subject": "send", "status": "refused", "decided_by": "ann", "note": ""}
    progress.take(events(("approval_requested", asked)))
    assert [one.subject for one in progress.awaited] == ["send"]
    progress.take(events(("approval_requested", asked), ("approval_decided", decided)))
    assert progress.awaited == []
    assert isinstance(progress.steps[0], AskedApproval) and progress.steps[0].decided_by == "ann"


def test_a_question_is_an_input_and_a_command():
    assert Question("ask", "why?").input == {"question": "why?"}
    assert Question("shout", "[1").input == "[1"
    assert Question("shout", "[1]", as_json=True).input == [1]
    with pytest.raises(InputUnreadable):
        Question("shout", "[1", as_json=True).input  # noqa: B018
    assert shlex.split(Question("ask", "it's; rm").command)[-1] == "it's; rm"
    assert shlex.split(Question("ask", "-1 or more?").command)[-2:] == ["--", "-1 or more?"]
    assert shlex.split(Question("shout", "it's").command)[-1] == '"it\'s"'


def test_examples_are_those_an_agent_can_answer_and_ask_comes_first():
    assert examples_for([]) == []
    assert examples_for(["files.cars"]) == ["What is the highest horsepower of any car whose origin is Japan?"]
    assert in_order(["b", "ask", "a"]) == ["ask", "a", "b"]
