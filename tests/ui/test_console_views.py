"""What the console shows, read from boards that real runs wrote."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.memoisation import Memoise
from agentsys.runs import UnknownRun
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool
from agentsys.ui.boards import trouble_of
from agentsys.ui.formatting import age_text, duration_text, escape_markdown, label_chips, label_text
from agentsys.views.commit_list import find_commit, newest_commits
from agentsys.views.provenance import load_provenance
from agentsys.views.run_graph import load_graph
from agentsys.views.run_list import newest_runs
from agentsys.views.run_view import AnswerView, answer_view, load_run

ASKED = {"question": "How many are there?", "number": 21}


def test_runs_come_newest_first_with_what_a_person_looks_for(recorded):
    first = recorded.run("question", ASKED)
    second = recorded.run("fails", "x")
    found = newest_runs(recorded.board, 10, reader=OWNER)
    assert [(row.run, row.status, row.workflow) for row in found.rows] == [
        (second.run, "failed", "fails"),
        (first.run, "done", "question"),
    ]
    assert found.rows[1].summary == "How many are there?"
    prompt, completion = len(f"Plan for {ASKED['question']}".split()), len("SELECT 2 * 21".split())  # noqa: SIM905
    assert found.rows[1].tokens == prompt + completion
    assert found.rows[0].tokens is None
    assert found.rows[1].label == first.label
    assert newest_runs(recorded.board, 1, reader=OWNER) == type(found)(found.rows[:1], 2, ("fails", "question"))


def test_a_run_shows_its_round_decisions_calls_and_answer(recorded):
    result = recorded.run("question", ASKED)
    view = load_run(recorded.board, result.run)
    (opened,) = view.rounds
    assert (opened.asked_by, opened.kind, opened.value, opened.outcome) == ("question", "number", 21, "answered")
    assert [(bid.agent, bid.score, bid.reason, bid.chosen) for bid in opened.bids] == [
        ("eager", 0.9, "doubles numbers", True),
        ("crashing", 0.4, "tries", True),
    ]
    answered = {response.agent: response for response in opened.responses}
    assert (answered["eager"].status, answered["eager"].value) == ("ok", 42)
    assert answered["crashing"].status == "crashed"
    assert "RuntimeError: out of paper" in answered["crashing"].failure
    assert ("eager", "call double", True) in [(made.agent, made.action, made.allowed) for made in view.decisions]
    assert [(call.tool, call.state, call.attempts) for call in view.tool_calls] == [("double", "succeeded", 1)]
    assert [(call.model, call.text, call.fault) for call in view.model_calls] == [("scripted", "SELECT 2 * 21", "")]
    assert view.answer is not None
    assert (view.answer.value, view.answer.plan, view.answer.rows) == (42, "SELECT 2 * 21", ((42,),))
    assert [(source.files, source.columns) for source in view.answer.sources] == [
        (("airports.csv",), ("state", "name"))
    ]


def test_a_failed_run_shows_its_failure_and_no_answer(recorded):
    view = load_run(recorded.board, recorded.run("fails", "x").run)
    assert view.answer is None
    assert view.failure is not None
    assert view.failure.message == "nothing to divide"


def test_runs_do_not_see_each_other(recorded):
    first, second = recorded.run("question", ASKED), recorded.run("question", {**ASKED, "number": 4})
    views = [load_run(recorded.board, result.run) for result in (first, second)]
    assert [view.answer.value for view in views if view.answer] == [42, 8]
    assert [len(view.rounds) for view in views] == [1, 1]


def test_any_other_value_is_shown_whole():
    assert answer_view({"answer": 1}).value == {"answer": 1}
    assert answer_view([1, 2]).plan is None


@pytest.mark.parametrize(
    "alike",
    [
        {"sources": ["https://example.org"]},
        {"sources": 3},
        {"sources": [], "plan": 3},
        {"sources": [], "rows": 3},
        {"sources": [], "columns": ["a", "b"], "rows": [[1, 2], [3]]},
        {"sources": [{"family": "f", "files": "ab", "columns": []}]},
    ],
)
def test_a_value_that_is_only_named_like_an_answer_from_data_is_shown_whole(alike):
    value = {"answer": 1, "plan": "x", **alike}
    assert answer_view(value) == AnswerView(value, None, (), (), ())


def test_commits_name_writer_run_topics_and_effects(recorded):
    result = recorded.run("question", ASKED)
    recorded.run("fails", "x")
    rows = newest_commits(recorded.board, 1000, reader=OWNER)
    assert [row.seq for row in rows] == list(range(recorded.board.head, 0, -1))
    assert {row.run for row in newest_commits(recorded.board, 1000, result.run, reader=OWNER)} == {result.run}
    assert rows[-1].topics == ("runs", "policies", "leases")
    assert rows[-1].wrote[0] == f"run {result.run} v1" and rows[-1].wrote[2] == f"lease {result.run} v1"
    assert {"agent:eager", "runtime"} <= {row.writer for row in rows}
    assert any(wrote == "double started" for row in rows for wrote in row.wrote)
    assert [row.seq for row in newest_commits(recorded.board, 3, reader=OWNER)] == [
        recorded.board.head - back for back in range(3)
    ]


def test_a_commit_in_full_is_the_logged_one(recorded):
    recorded.run("question", ASKED)
    view = find_commit(recorded.board, 2)
    assert view is not None
    (logged,) = recorded.board.log(after=1, limit=1)
    assert (view.hash, view.previous_hash) == (logged.hash, logged.prev_hash)
    assert [entry.value for entry in view.entries] == [entry.value for entry in logged.writes]
    assert find_commit(recorded.board, recorded.board.head + 1) is None
    assert find_commit(recorded.board, 0) is None


def test_a_board_opened_for_reading_follows_the_writer(recorded):
    with Board.open_read_only(recorded.path) as opened:
        assert newest_runs(opened, 5, reader=OWNER).total == 0
        recorded.run("question", ASKED)
        assert newest_runs(opened, 5, reader=OWNER).total == 1


def test_any_other_error_is_told_with_its_code_and_remedy(recorded):
    with pytest.raises(UnknownRun) as caught:
        load_run(recorded.board, "nobody")
    trouble = trouble_of(caught.value)
    assert (trouble.code, trouble.remedy, trouble.command) == ("AGS-0601", UnknownRun.remedy, None)


# Markdown shows NUL as U+FFFD.
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_escaped_text_is_shown_literally(text):
    rendered = MarkdownIt("js-default", {"html": True}).render(escape_markdown(text))
    assert "<a" not in rendered
    assert "<img" not in rendered
    plain = MarkdownIt("js-default").parseInline(escape_markdown(text))[0].children or []
    assert {child.type for child in plain} <= {"text", "text_special"}
    assert "".join(child.content for child in plain) == " ".join(text.split())


@pytest.mark.parametrize(
    "hostile",
    ["![x](http://evil.example/?q=1)", "[x](http://evil.example)", "http://evil.example", ":red[x] $y$", "# x"],
)
def test_no_markdown_survives_escaping(hostile):
    children = MarkdownIt("js-default").parseInline(escape_markdown(hostile))[0].children or []
    assert {child.type for child in children} <= {"text", "text_special"}


def test_a_label_is_told_in_words():
    label = Label(frozenset({"file:a.csv", "user:ann"}), Readers.of("user:ann"), 1.0)
    assert label_text(label) == "influenced by file:a.csv, user:ann · readable by user:ann · carries 1 bit"
    assert [chip.tone for chip in label_chips(label)] == ["orange", "violet", "gray"]
    assert (
        label_text(Label(frozenset(), Readers(None)))
        == "influenced by nobody · readable by everyone · carries free text"
    )
    assert label_chips(Label(frozenset("abcde"), Readers.of()))[0].text == "influenced by a, b, c and 2 more"
    assert label_chips(Label(frozenset("a"), Readers.of()))[1].text == "readable by nobody"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.6, "1 min"),
        (90, "1 min 30 s"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
    ],
)
def test_durations(seconds, told):
    assert duration_text(seconds) == told


@pytest.mark.parametrize(
    ("passed", "told"), [(-5, "just now"), (0.5, "just now"), (12, "12 s ago"), (179, "2 min ago"), (90000, "1 d ago")]
)
def test_ages(passed, told):
    assert age_text(1000.0, 1000.0 + passed) == told


def test_calls_that_memory_answered_are_told_apart(recorded):
    @tool(effect=EffectClass.PURE, memo=Memoise())
    def triple(number: int) -> int:
        return 3 * number

    async def calls(context, number):
        said = (await context.generate("why", memo=Memoise())).value
        return [said, (await context.call("triple", number=number)).value]

    runtime = Runtime(recorded.board, ScriptedModel(str), tools=[triple])
    first, second = [asyncio.run(runtime.run(calls, 7)).run for _ in range(2)]
    for run, remembered in ((first, False), (second, True)):
        view = load_run(recorded.board, run)
        (model_call,), (tool_call,) = view.model_calls, view.tool_calls
        assert model_call.from_memo == remembered
        assert (tool_call.state == "from memo") == remembered
        assert (tool_call.tool, tool_call.arguments) == ("triple", {"number": 7})
        assert tool_call.result == {"value": 21}
        titles = [node.title for node in load_graph(recorded.board, run).nodes]
        assert ("call from memo" in titles, "generate from memo" in titles) == (remembered, remembered)
    found = load_provenance(recorded.board, "runs", second)
    assert found is not None
    assert [node.kind for node in found.nodes].count("memo") == 2
