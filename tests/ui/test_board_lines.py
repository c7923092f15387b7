"""Commits, conflicts and versions as lines, and snapshots that ask a server only once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agentsys.agents import Bid, FunctionAgent
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label
from agentsys.policy.policy import Policy
from agentsys.protocols.http.schemas import BoardDocument
from agentsys.protocols.http.view_client import ViewClient
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.ui.board_lines import NEW_SECONDS, Arrivals, Line, board_lines, line_cells, markdown_table
from agentsys.ui.comparison import version_diff
from agentsys.ui.scrubbing import nearest_commit, requested_commit
from agentsys.ui.snapshot import Snapshot
from agentsys.views.commit_list import newest_commits
from agentsys.views.conflicts import newest_conflicts
from agentsys.views.entries import list_versions

OWNER = "user:owner"


@pytest.fixture
def board():
    with Board.open(":memory:") as opened:
        yield opened


@pytest.fixture
def run_with_conflict(board) -> str:
    """Run two agents that count one entry up, each having read it before the other wrote."""
    met = asyncio.Barrier(2)

    async def counts(context, request):
        counted = context.read("notes", "count")
        if context.actor.attempt == 1:
            await met.wait()
        context.put("notes", "count", (counted.value if counted else 0) + 1, type="count")

    async def asks(context, value):
        await context.ask("count")

    agents = [
        FunctionAgent(counts, name, frozenset({"count"}), lambda request, name=name: Bid(name, 0.5))
        for name in ("ann", "bob")
    ]
    model = ScriptedModel(lambda prompt: "")
    runtime = Runtime(board, model, agents=agents, workflows=[asks], policy=Policy.of(open_topics=["notes"]))
    return asyncio.run(runtime.run("asks")).run


def test_a_lost_transaction_is_struck_through_with_the_entry_it_lost_over(board, run_with_conflict):
    (conflict,) = newest_conflicts(board, 10)
    assert (conflict.run, conflict.attempt) == (run_with_conflict, 1)
    assert [(change.topic, change.key, change.old, change.new) for change in conflict.changes] == [
        ("notes", "count", None, 1)
    ]
    lines = board_lines(newest_commits(board, 1000, reader=OWNER), [conflict])
    assert [line.seq for line in lines] == sorted((line.seq for line in lines), reverse=True)
    (lost,) = [line for line in lines if line.lost]
    cells = line_cells(lost, "12:00", new=True)
    assert cells[3] == r":red-badge[conflict] ~~notes\/count~~"
    assert cells[2].startswith("~~agent")
    assert newest_conflicts(board, 10, run="another") == ()
    assert newest_conflicts(board, 10, at=conflict.seq - 1) == ()
    assert board_lines(newest_commits(board, 1, reader=OWNER), [replace(conflict, seq=1)])[-1].lost is False


def test_versions_are_compared_by_value_writer_and_label(board, run_with_conflict):
    first, second = list_versions(board, "notes", "count")
    difference = version_diff(first, second).splitlines()
    assert "-1" in difference
    assert "+2" in difference
    assert version_diff(first, first) == ""
    assert "+withheld" in version_diff(first, replace(second, value=None, withheld=True)).splitlines()


def test_new_commits_are_marked_for_a_while():
    arrivals = Arrivals()
    arrivals.note(5, 100.0)
    assert not arrivals.is_new(5)
    arrivals.note(7, 101.0)
    assert [seq for seq in range(9) if arrivals.is_new(seq)] == [6, 7]
    arrivals.note(8, 101.0 + NEW_SECONDS)
    assert [seq for seq in range(10) if arrivals.is_new(seq)] == [8]


def test_a_table_keeps_what_was_written_in_its_cell():
    line = Line(1, 0.0, "agent|x", None, ("note a|b v1",), Label())
    table = markdown_table(["a"], [line_cells(line, "t", new=False)]).splitlines()
    assert table[1] == "| --- |"
    assert r"agent\:x" not in table[2]
    assert r"agent\|x" in table[2]


@pytest.mark.parametrize(
    ("parameter", "asked"),
    [(None, None), ("", None), ("7", 7), ("-1", None), ("x", None), ("0", None), ("9" * 99, None)],
)
def test_a_url_asks_for_a_commit(parameter, asked):
    assert requested_commit(parameter) == asked


def test_the_nearest_commit_is_not_after_the_one_asked_for():
    assert [nearest_commit([3, 5, 9], asked) for asked in (1, 3, 4, 9, 99)] == [3, 3, 3, 9, 9]


def test_a_snapshot_asks_once_for_each_head():
    asked = []

    def get(path, shape, **parameters):
        asked.append((path, parameters))
        return BoardDocument(head=4, epoch=1) if path.endswith("/board") else path

    views = ViewClient(get)
    for _ in range(3):
        snapshot = Snapshot.newest(views)
        assert snapshot.look(views.run, "a") == "/views/runs/a"
        snapshot.look(views.graph, "a", at=2)
    assert [path for path, _ in asked] == ["/board", "/views/runs/a", "/views/runs/a/graph", "/board", "/board"]
    replace(snapshot, head=5).look(views.run, "a")
    assert len(asked) == 6
