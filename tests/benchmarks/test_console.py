"""The board of the console's benchmark, and what counts the reruns of a page."""

import subprocess
import sys

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from agentsys.benchmarks.browser import Reruns, ScriptWatch, chromium_path
from agentsys.benchmarks.large_board import build_board
from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import ConfigurationError
from agentsys.runs import list_runs
from agentsys.views.run_view import load_run


def test_the_board_has_the_runs_and_entries_that_were_asked_for(tmp_path):
    for name in ("a.db", "b.db"):
        build_board(tmp_path / name, runs=60, entries=1000)
    with Board.open_read_only(tmp_path / "a.db") as board, Board.open_read_only(tmp_path / "b.db") as same:
        entries = board.query(Predicate())
        assert len(entries) == 1000 and board.verify() == board.head
        assert [entry.address for entry in entries] == [entry.address for entry in same.query(Predicate())]
        records = list_runs(board)
        assert len(records) == 60 and {record.status for record in records} == {"done"}
        view = load_run(board, records[0].run)
        assert view.answer is not None and view.rounds and view.decisions
        assert [call.state for call in view.tool_calls] == ["succeeded", "succeeded"]


def test_the_writer_commits_a_run_for_each_line(tmp_path):
    path = tmp_path / "b.db"
    Board.open(path).close()
    command = [sys.executable, "-m", "agentsys.benchmarks.run_writer", str(path)]
    done = subprocess.run(command, input="one?\ntwo?\n", capture_output=True, text=True, timeout=60)
    assert len(done.stdout.split()) == 2, done.stderr
    with Board.open_read_only(path) as board:
        assert [record.input for record in list_runs(board)] == [{"question": "one?"}, {"question": "two?"}]


def run(*fragments):
    message = ForwardMsg()
    message.new_session.name = "app"
    message.metadata.run.fragment_ids.extend(fragments)
    return message.SerializeToString()


def text(body):
    message = ForwardMsg()
    message.delta.new_element.markdown.body = body
    return message.SerializeToString()


def watched(*frames):
    watch = ScriptWatch()
    for frame in frames:
        watch._receive(frame)
    return watch.between("wrote", "running")


def test_reruns_are_counted_from_the_first_token_to_the_last_that_streams():
    frames = [run(), text("wrote 1"), run("f"), text("running"), text("wrote 2"), run("f"), text("running")]
    assert watched(*frames, run("f"), text("done")) == Reruns(0, 2)


def test_a_rerun_of_the_whole_page_is_caught_and_the_one_at_the_end_is_none():
    frames = [run(), text("wrote 1"), run("f"), run(), text("running"), text("wrote 2")]
    assert watched(*frames, run("f"), text("running"), run(), text("done")) == Reruns(1, 2)


def test_a_missing_chromium_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="No Chromium") as told:
        chromium_path()
    assert "make chromium" in told.value.remedy


def test_text_frames_and_other_messages_count_nothing():
    assert watched(text("wrote"), "a text frame", ForwardMsg().SerializeToString(), text("running")) == Reruns(0, 0)
    assert watched(run(), run("f")) == Reruns(0, 0)
