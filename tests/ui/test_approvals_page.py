"""The Approvals page against a served runtime: what waits is shown in full, and a click decides it once."""

from __future__ import annotations

import time
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, Label
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool
from agentsys.ui.screens.addresses import APPROVALS_PAGE
from agentsys.views.texts import value_of
from tests.http.conftest import TOKEN, served
from tests.ui.conftest import forget_the_client


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
def send(text: str) -> str:
    return f"sent {text}"


async def forward(context: Any, text: Any) -> Any:
    return (await context.call("send", text=text)).value


async def wonder(context: Any, text: Any) -> Any:
    return (await context.ask_person("Which *city*?")).value


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Board.open(":memory:") as board:
        policy = Policy.of(asks=["send"])
        runtime = Runtime(board, ScriptedModel(str), tools=[send], workflows=[forward, wonder], policy=policy)
        with served(runtime) as opened:
            monkeypatch.setenv("AGENTSYS_URL", str(opened.base_url))
            monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)
            yield opened
            forget_the_client()


def page() -> AppTest:
    app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30)
    app.switch_page(APPROVALS_PAGE)
    return app.run()


def start(client: Any, workflow: str, text: str) -> str:
    run: str = client.post("/api/v1/runs", json={"workflow": workflow, "input": text}).json()["run"]
    while not client.get(f"/api/v1/approvals?status=pending&run={run}").json():
        time.sleep(0.01)
    return run


def ended(client: Any, run: str) -> Any:
    while (found := client.get(f"/api/v1/runs/{run}").json())["status"] == "running":
        time.sleep(0.01)
    return found


def button(app: AppTest, label: str) -> Any:
    return next(found for found in app.button if found.label == label)


def test_nothing_waits(client: Any):
    app = page()
    assert not app.exception and [info.value for info in app.info] == ["Nobody waits for you."]


@pytest.mark.parametrize(("label", "status"), [("Approve", "done"), ("Reject", "failed")])
def test_a_call_is_shown_in_full_and_decided(client: Any, label: str, status: str):
    run = start(client, "forward", "hello")
    app = page()
    assert not app.exception
    assert "wants to call send" in app.markdown[0].value and app.code[0].value == "hello"
    app.text_input[0].input("so be it")
    app = button(app, label).click().run()
    assert not app.exception and ended(client, run)["status"] == status
    (decided,) = client.get(f"/api/v1/approvals?run={run}").json()
    assert decided["note"] == "so be it"
    assert "decided" in " ".join(found.value for found in page().markdown).casefold()


def test_a_question_is_answered_and_its_text_is_no_markup(client: Any):
    run = start(client, "wonder", "")
    app = page()
    assert app.code[0].value == "Which *city*?" and not any("*city*" in found.value for found in app.markdown)
    app.text_input[0].input("Graz")
    button(app, "Answer").click().run()
    assert ended(client, run)["value"] == "Graz"


def test_a_decision_that_comes_too_late_is_said(client: Any):
    run = start(client, "forward", "hello")
    app = page()
    (asked,) = client.get(f"/api/v1/approvals?run={run}").json()
    client.post(f"/api/v1/approvals/{asked['id']}/reject", json={})
    app = button(app, "Approve").click().run()
    assert any("AGS" in info.value and "0331" in info.value for info in app.info)


def test_an_answer_is_json_where_it_is_json():
    assert (value_of("3"), value_of('{"a": 1}'), value_of("yes, do")) == (3, {"a": 1}, "yes, do")
    for text in ("NaN", "1e999", "[" * 100_000, f"{'[' * 100}{']' * 100}"):
        assert value_of(text) == text
