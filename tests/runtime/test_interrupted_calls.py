"""Calls of tools that are interrupted, hang, or end in unusual ways leave an outcome, and nothing that waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
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

PROGRAM = """
import asyncio, time
from agentsys import EffectClass, Runtime, tool
from agentsys.blackboard.board import Board
from agentsys.testing import ScriptedModel

@tool(effect=EffectClass.PURE, timeout=0.05)
def hangs(number: int) -> int:
    time.sleep(3600)

@tool(effect=EffectClass.PURE, timeout=30.0)
def quick() -> str:
    return "quick"

async def calls(context, value):
    for number in range(40):
        try:
            await context.call("hangs", number=number)
        except Exception:
            pass
    return (await context.call("quick")).value

async def main():
    async with Runtime(Board.open(":memory:"), ScriptedModel(str), tools=[hangs, quick]) as runtime:
        print((await runtime.run(calls)).value)

asyncio.run(main())
"""


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


def test_functions_that_never_return_keep_neither_other_calls_nor_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "quick\n"


def stops() -> str:
    raise StopIteration("no more")


def leaves() -> str:
    raise SystemExit("no more")


async def leaves_the_loop() -> str:
    raise SystemExit("no more")


@pytest.mark.parametrize("function", [stops, leaves, leaves_the_loop])
async def test_a_function_that_ends_in_an_unusual_way_fails_like_any(board: Board, function: Any) -> None:
    unusual = tool(effect=EffectClass.PURE, timeout=10.0, name="unusual")(function)
    failed = await asyncio.wait_for(runtime_on(board, unusual).run("calls", "unusual"), 5)
    assert failed.failure is not None
    assert "no more" in failed.failure.message
    assert [effect.state for effect in board.effects()] == [EffectState.FAILED]


async def test_what_became_of_a_call_may_be_asked_by_a_coroutine(board: Board) -> None:
    begun = asyncio.Event()

    async def paid(key: str) -> str:
        return f"paid {len(key)}"

    @tool(effect=EffectClass.QUERYABLE, query=paid, audience=NOBODY, source=BOTTOM)
    async def pay() -> str:
        begun.set()
        await asyncio.sleep(60)
        return "late"

    runtime = runtime_on(board, pay)
    running = asyncio.create_task(runtime.run("calls", "pay", run_id="r"))
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert (await runtime.resume("r")).value == "paid 32"
