"""Calls of tools that are interrupted, hang, or end in unusual ways leave an outcome, and nothing that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import EffectChange, EffectClass, EffectState
from agentsys.blackboard.labels import BOTTOM, NOBODY
from agentsys.blackboard.transactions import Transaction
from agentsys.context import Context
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import Tool, tool


@pytest.fixture
def board() -> Iterator[Board]:
    with Board.open(":memory:") as opened:
        yield opened


async def calls(context: Context, name: str) -> Any:
    return (await context.call(name)).value


def runtime_on(board: Board, *tools: Tool) -> Runtime:
    return Runtime(board, ScriptedModel(str), tools=tools, workflows=[calls])


@pytest.mark.parametrize("effect", [EffectClass.PURE, EffectClass.IRREVERSIBLE])
async def test_a_call_whose_start_was_interrupted_was_not_made_and_is_made_once(
    board: Board, monkeypatch: pytest.MonkeyPatch, effect: EffectClass
) -> None:
    made: list[int] = []

    @tool(effect=effect, audience=NOBODY, source=BOTTOM)
    def note() -> str:
        made.append(1)
        return "noted"

    submit = board.submit

    def interrupting(transaction: Transaction) -> Future[Commit]:
        starting = [one for one in transaction._operations if isinstance(one, EffectChange)]
        if starting and starting[-1].state is EffectState.STARTED:
            monkeypatch.undo()
            running.cancel()
        return submit(transaction)

    runtime = runtime_on(board, note)
    monkeypatch.setattr(board, "submit", interrupting)
    running = asyncio.create_task(runtime.run("calls", "note", run_id="r"))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert made == []
    assert (await runtime.resume("r")).value == "noted"
    assert made == [1]
    assert (await runtime.replay("r")).identical
