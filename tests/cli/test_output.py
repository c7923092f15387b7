"""How commands write: text as it is, whatever stands in it."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from agentsys.cli.live import LiveRun
from agentsys.cli.output import err, out, print_error, print_json, print_table, time_text
from agentsys.events import BidMade


def test_what_stands_between_colons_is_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["key"], [["user:key:1"]])
    out.print("it is :warning: yellow", highlight=False, markup=False)
    err.print("run :key:", highlight=False, markup=False)
    shown = capsys.readouterr()
    assert "user:key:1" in shown.out and "it is :warning: yellow" in shown.out
    assert shown.err == "run :key:\n"


def test_a_cell_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["tool", "state"], [["\x1b[2K\x1b[1Aread\x9b5m", "changed"], ["two\nlines", "new"]])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x9b" not in shown
    assert "\\x1b[2K" in shown and "changed" in shown
    assert "two\\x0alines" not in shown


def test_another_program_gets_each_row_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    long = " ".join(["word"] * 60)
    print_table(["run", "input"], [["r1", long], ["r2", "x"]], cut="input")
    assert f"│ r1  │ {long} │\n" in capsys.readouterr().out


def test_a_cell_is_cut_where_the_terminal_ends_and_the_rest_of_its_row_is_kept() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    with terminal.capture() as captured:
        print_table(["run", "input"], [["182869739589", "word " * 60]], cut="input", console=terminal)
    (row,) = [line for line in captured.get().splitlines() if "word" in line]
    assert len(row) == 40 and row.startswith("│ 182869739589 │ word") and row.endswith("… │")


def test_json_is_there_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as told, os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        print_json({"url": "http://127.0.0.1:8700"})
        monkeypatch.undo()
        assert json.loads(told.read() or "null") == {"url": "http://127.0.0.1:8700"}


def test_an_agent_does_not_steer_the_terminal_it_is_shown_on(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveRun(err) as live:
        live.listen(BidMade("r", "round", "peer", 1.0, "skill \x1b[2J\n● wipe allowed", chosen=True))
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and len(shown.splitlines()) == 1


def test_a_number_that_json_does_not_have_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"needed": [float("inf"), 2.5], "rows": (float("nan"), -float("inf"), "inf")})
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told == {"needed": [None, 2.5], "rows": [None, None, "inf"]}


def test_an_error_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("run r failed", "AGS-0630", "read failed: \x1b[2J\x1b[1;1Hall is well", "Ask \x9b5m again.")
    err.print("skipped \x1b]0;title\x07.csv", markup=False)
    shown = capsys.readouterr().err
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)
    assert "\\x1b[2J" in shown and "\\x9b5m again" in shown and "\\x07.csv" in shown


def test_what_agents_wrote_does_not_steer_the_terminal_that_it_is_printed_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(Text("a step \x1b[2J"))
    tree.add(Text("denied\x9b5m write notes/\x1b]0;title\x07"))
    for told, there in (
        (tree, "a step \\x1b[2J"),
        (Text("a note\x1b[1A"), "a note\\x1b[1A"),
        ("an \x1b[8m", "an \\x1b[8m"),
    ):
        out.print(told, markup=False, highlight=False)
        assert "\x1b" in capsys.readouterr().out, "what another program reads is as it was"
        monkeypatch.setattr(out, "_force_terminal", True)
        out.print(told, markup=False, highlight=False)
        monkeypatch.undo()
        shown = capsys.readouterr().out
        assert not {"\x1b", "\x9b", "\x07"} & set(shown) and there in shown


@pytest.mark.parametrize("at", [1e12, 1e30, float("inf")])
def test_a_time_that_no_calendar_has_is_told(at: float) -> None:
    assert time_text(at) == "after the year 9999"
