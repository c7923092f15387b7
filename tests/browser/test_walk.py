"""Through the console in Chromium: ask, look, go back in time, decide. The model behind it is the real one."""

from __future__ import annotations

import re
import subprocess

import pytest
from playwright.sync_api import Page, expect

from agentsys.benchmarks.browser import COMMAND, ScriptWatch, bare_environment, served_console

pytestmark = [pytest.mark.browser, pytest.mark.model]

QUESTION = "How many airports are there in the state TX?"
ANSWER = "209"
PATIENCE_MILLISECONDS = 180_000


def asked(page: Page, console) -> str:
    """Ask the question, wait for its answer, and return the run's name."""
    page.goto(f"{console.url}/ask")
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    seen(page.get_by_role("heading", name=ANSWER))
    return re.search(r"run=(\w+)", page.url)[1]


def seen(locator) -> None:
    expect(locator.first).to_be_visible(timeout=PATIENCE_MILLISECONDS)


def test_a_question_streams_and_its_run_is_looked_at(page, console):
    watch = ScriptWatch.of(page)
    run = asked(page, console)
    assert watch.between("wrote", "-badge[running]").whole == 0
    for text in ("SELECT count", "influenced by file:airports.csv", "readable by user:owner", "answered", "allowed"):
        seen(page.get_by_text(text))
    page.reload()
    seen(page.get_by_role("heading", name=ANSWER))
    seen(page.get_by_text("files.airports volunteered"))
    page.get_by_role("link", name="The run in full").click()
    expect(page).to_have_url(re.compile(rf"/run\?run={run}"))
    seen(page.get_by_role("heading", name=ANSWER))


def test_the_graph_opens_a_step_with_its_provenance_and_a_reload_keeps_it(page, console):
    run = asked(page, console)
    page.goto(f"{console.url}/run?run={run}&view=Graph")
    graph = page.get_by_test_id("stGraphVizChart")
    seen(graph.get_by_text("model call"))
    graph.get_by_text("model call").first.click()
    expect(page).to_have_url(re.compile("step="))
    for _ in range(2):
        seen(page.get_by_text("SELECT count"))
        seen(page.get_by_text("influenced by file:airports.csv, user:owner"))
        page.reload()


def test_the_provenance_of_an_answer_names_its_file_and_a_reload_keeps_it(page, console):
    run = asked(page, console)
    page.goto(f"{console.url}/run?run={run}&view=Provenance")
    for _ in range(2):
        seen(page.get_by_text("Why this label"))
        seen(page.get_by_role("listitem").filter(has_text="airports.csv"))
        seen(page.get_by_test_id("stGraphVizChart"))
        page.reload()


def test_the_slider_goes_back_in_time_and_a_reload_stays_there(page, console):
    run = asked(page, console)
    page.goto(f"{console.url}/blackboard?run={run}&show=Entries")
    seen(page.get_by_text(re.compile(r"\d+ entries after commit")))
    slider = page.get_by_role("slider")
    at = int(slider.input_value()) - 3
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    # On a slow machine the first presses are answered before the last.
    expect(page).to_have_url(re.compile(rf"at={at}\b"), timeout=30_000)
    for _ in range(2):
        seen(page.get_by_text(re.compile(rf"after commit {at:,}")))
        page.reload()


def test_a_run_of_another_process_appears_by_itself(page, console):
    page.goto(console.url)
    seen(page.get_by_text(re.compile("up to date at commit|is empty")))
    other = "What is the highest horsepower of any car whose origin is Japan?"
    command = [*COMMAND, "ask", "--lake", str(console.lake), "--board", str(console.board), other]
    done = subprocess.run(command, env=bare_environment(), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    seen(page.get_by_role("link", name=other))


@pytest.mark.parametrize(("verdict", "ends"), [("Approve", "published the news"), ("Reject", "failed")])
def test_a_person_decides_a_tool_call(page, approving, verdict, ends):
    page.goto(f"{approving.url}/ask")
    page.get_by_label("Input", exact=True).fill("the news")
    page.get_by_role("button", name="Ask", exact=True).click()
    seen(page.get_by_text("waits for a person"))
    url = page.url
    page.get_by_role("link", name="Decide").click()
    page.get_by_label("Note").fill("I read it")
    page.get_by_role("button", name=verdict, exact=True).click()
    seen(page.get_by_text(re.compile("by user:owner: I read it")))
    page.goto(url)
    seen(page.get_by_text(ends))


def test_a_fresh_board_shows_the_recorded_run(page, tmp_path):
    with served_console(board=tmp_path / "board.db") as url:
        page.goto(url)
        seen(page.get_by_text("a recorded run"))
        page.get_by_role("link", name="How many airports").click()
        seen(page.get_by_role("heading", name=ANSWER))
        page.goto(f"{url}/ask")
        seen(page.get_by_text("agentsys console --lake DIR"))


def test_every_page_is_drawn_in_light_and_dark(page, console, pictures):
    run = asked(page, console)
    shown = {
        "runs": ("", QUESTION),
        "ask": (f"ask?run={run}", "The run in full"),
        "run": (f"run?run={run}", "Sources"),
        "graph": (f"run?run={run}&view=Graph", "Filled"),
        "provenance": (f"run?run={run}&view=Provenance", "Why this label"),
        "timeline": (f"run?run={run}&view=Timeline", QUESTION),
        "blackboard": ("blackboard", "up to date at commit"),
        "entries": (f"blackboard?run={run}&show=Entries", "after commit"),
        "serving": ("serving", "Latencies"),
        "approvals": ("approvals", "Nobody waits"),
    }
    for name, (path, text) in shown.items():
        backgrounds = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(f"{console.url}/{path}")
            seen(page.get_by_text(text))
            assert page.get_by_test_id("stException").count() == 0, name
            page.wait_for_timeout(1000)  # for charts and tables, which draw themselves a little later
            page.screenshot(path=pictures / f"{name}-{scheme}.png")
            app = page.get_by_test_id("stApp")
            backgrounds.add(app.evaluate("element => getComputedStyle(element).backgroundColor"))
        assert len(backgrounds) == 2, name
