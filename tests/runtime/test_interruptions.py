"""Runs that are begun, ended and interrupted at the worst moment lose nothing and hold nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.transactions import Transaction
from agentsys.context import Context
from agentsys.runs import RunRecord
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel


async def double(context: Context, number: int) -> int:
    return number * 2


@pytest.fixture
def board() -> Iterator[Board]:
    with Board.open(":memory:") as opened:
        yield opened


@pytest.fixture
def runtime(board: Board) -> Runtime:
    return Runtime(board, ScriptedModel(str), workflows=[double])


async def test_a_run_that_ends_as_it_is_cancelled_keeps_its_end(
    board: Board, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runtime.enqueue("double", 4, run_id="r")
    begin = board.begin

    def ended_meanwhile(principal: str, **options: Any) -> Transaction:
        monkeypatch.undo()
        ending = begin("another process", run="r")
        record = RunRecord.load(board, "r")
        record.done(8, record.input_label, "", record.started).write(ending)
        board.commit(ending)
        return begin(principal, **options)

    monkeypatch.setattr(board, "begin", ended_meanwhile)
    await runtime.cancel("r")
    assert (await runtime.resume("r")).value == 8
