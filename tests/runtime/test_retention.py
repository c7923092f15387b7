"""Retention: a board is compacted under runs, and those that have not ended go on as if nothing had happened."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.erasure import erase
from agentsys.blackboard.labels import NOBODY, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import HistoryCompacted
from agentsys.errors import ConfigurationError
from agentsys.policy.policy import Policy
from agentsys.retention import compact_board, parse_keep, run_pins
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
def send(text: str) -> int:
    return len(text)


async def report(context: Any, text: Any) -> Any:
    tone = context.read("notes", "tone")
    sent = (await context.call("send", text=text)).value
    return [tone.value if tone else None, sent]


def write(board: Board, tone: str) -> None:
    transaction = board.begin("user:owner")
    transaction.put("notes", "tone", tone, type="note", label=Label.trusted())
    board.commit(transaction)


def runtime_on(board: Board) -> Runtime:
    return Runtime(board, ScriptedModel(str), tools=[send], workflows=[report], policy=Policy.of(asks=["send"]))


async def test_a_run_that_is_erased_at_the_same_time_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Board.open(":memory:") as board:
        await runtime_on(board).enqueue("report", "hello", run_id="r")
        query = board.query

        def erased_after(predicate: Predicate) -> list[Entry]:
            found = query(predicate)
            monkeypatch.undo()
            erase(board, [(topics.RUNS, "r")], "asked for")
            return found

        monkeypatch.setattr(board, "query", erased_after)
        assert run_pins(board) == []


async def test_a_run_that_waits_keeps_what_it_needs_and_goes_on_and_replays() -> None:
    with Board.open(":memory:") as board:
        write(board, "old")
        write(board, "plain")
        runtime = runtime_on(board)
        running = asyncio.create_task(runtime.run("report", "hello", run_id="r"))
        while not (asked := runtime.approvals("pending")):
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        write(board, "loud")
        (pin,) = run_pins(board)
        # Its process died here; the board is compacted before it goes on.
        assert compact_board(board, Keep()).horizon == pin.seq == 2
        assert board.verify() == board.head
        runtime = runtime_on(board)
        await runtime.decide(asked[0].id, "approve")
        result = await runtime.resume("r")
        assert result.value == ["loud", 5]
        assert (await runtime.replay("r")).identical
        assert run_pins(board) == []
        assert compact_board(board, Keep()).horizon == board.horizon > pin.seq
        assert board.verify() == board.head
        assert [record.run for record in runtime.runs()] == ["r"] and runtime.runs()[0].value == result.value
        assert (await runtime.replay("r")).identical
        write(board, "new")
        compact_board(board, Keep())
        assert "AGS-0260" in str((await runtime.replay("r")).divergence)
        with pytest.raises(HistoryCompacted):
            await runtime.fork("r", run_id="again")


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("30d", Keep(seconds=30 * 86_400)),
        ("12h", Keep(seconds=43_200)),
        ("90m", Keep(seconds=5400)),
        ("0s", Keep()),
        (" 1000 ", Keep(commits=1000)),
    ],
)
def test_what_to_keep_is_a_time_or_a_number_of_commits(text: str, keep: Keep) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5d", "1 week", "٣d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="30d, 12h"):
        parse_keep(text)
