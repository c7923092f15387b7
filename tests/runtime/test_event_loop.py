"""While a database does not answer, one run waits for it and the process's other work goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from agentsys.agents import agent
from agentsys.asking import POLL_SECONDS
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, Label
from agentsys.errors import AgentsysError
from agentsys.policy.policy import Policy
from agentsys.policy.rules import Limits, ToolRule
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.threads import within
from agentsys.tools import EffectClass, tool
from agentsys.workers import Worker


class Watched:
    """A board's reader that knows who read while the event loop of the thread waited."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.held_up: list[str] = []
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._reader, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.reads += 1
            with suppress(RuntimeError):
                self.held_up.append(f"{name} by {asyncio.current_task()}")
            return found(*arguments, **named)

        return call if callable(found) else found


@pytest.fixture
def board() -> Iterator[Board]:
    with Board.open(":memory:") as opened:
        # As for a process that does not lead: it asks the database for each of these.
        opened._reader, opened._knows_head = Watched(opened._reader), lambda: False  # type: ignore[assignment]
        yield opened


@pytest.fixture
def watched(board: Board) -> Any:
    return board._reader


def give_back(room: str, idempotency_key: str) -> None:
    """Take a reservation back."""


@tool(effect=EffectClass.COMPENSABLE, audience=NOBODY, source=Label.trusted(), undo=give_back)
def reserve(room: str) -> str:
    if room == "full":
        raise ValueError("no room")
    return room


@agent(kind="sum")
async def adder(context: Any, request: Any) -> Any:
    context.put("sums", "last", sum(request.value), type="sum")
    return sum(request.value)


async def everything(context: Any, text: Any) -> Any:
    try:
        async with context.saga():
            for room in ("a", "b", "full"):
                await context.call("reserve", room=room)
    except AgentsysError:
        said = (await context.generate(text)).value
    asked = await context.ask("sum", [1, 2])
    context.put("words", "said", said, type="word")
    word = await context.ask_person("Is it enough?")
    return [said, asked.value, word.value, await context.now() > 0]


async def looks(context: Any, text: Any) -> Any:
    return context.read("words", "said") is None


def runtime_on(board: Board) -> Runtime:
    policy = Policy(tools={"reserve": ToolRule(limits=Limits(run=10))}, open_topics=("sums", "words"))
    return Runtime(
        board,
        ScriptedModel(str),
        tools=[reserve],
        agents=[adder],
        workflows=[everything, looks],
        policy=policy,
    )


async def test_what_a_run_needs_of_the_board_holds_up_nobody_else(board: Board, watched: Watched) -> None:
    runtime = runtime_on(board)
    supervisor = RunSupervisor(runtime)
    run = await runtime.enqueue("everything", "hello")
    working = asyncio.create_task(Worker(supervisor).serve())
    while not (found := await asyncio.to_thread(runtime.approvals, "pending")):
        await asyncio.sleep(0.01)
    # Interrupted while it waits, and taken up again.
    working.cancel()
    await supervisor.close()
    supervisor = RunSupervisor(runtime)
    assert await supervisor.resume(run) == run
    await runtime.decide(found[0].id, "approve", answer="yes")
    result = await supervisor.wait(run)
    assert result.status == "done", result.failure
    assert (await runtime.replay(run)).identical
    assert (await runtime.audit(run)).identical
    assert (await runtime.fork(run, at=await asyncio.to_thread(lambda: board.head))).status == "done"
    await runtime.cancel(run)
    assert not watched.held_up


async def test_a_run_that_waits_for_a_person_asks_the_board_for_nothing_meanwhile(
    board: Board, watched: Watched
) -> None:
    runtime = runtime_on(board)
    running = asyncio.create_task(runtime.run("everything", "hello"))
    while not (found := await asyncio.to_thread(runtime.approvals, "pending")):
        await asyncio.sleep(0.01)
    for _ in range(20):
        # On a busy machine, what it reads once after it asked may come late.
        before = watched.reads
        await asyncio.sleep(5 * POLL_SECONDS)
        if watched.reads == before:
            break
    assert watched.reads == before
    await runtime.decide(found[0].id, "approve", answer="yes")
    assert (await running).status == "done"


async def test_a_read_of_an_agent_itself_is_seen_to_hold_up_the_others(board: Board, watched: Watched) -> None:
    assert (await runtime_on(board).run("looks")).value is True
    assert watched.held_up


async def test_an_answer_that_came_while_the_loop_was_held_up_is_not_late() -> None:
    @tool(effect=EffectClass.PURE, timeout=0.2)
    def quick() -> str:
        time.sleep(0.1)
        return "done"

    async def hold_up() -> None:
        await asyncio.sleep(0)
        time.sleep(0.5)

    answer, _ = await asyncio.gather(quick.invoke({}, "k"), hold_up())
    assert answer == "done"


async def never(told: list[str]) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        told.append("given up")


async def test_an_answer_that_does_not_come_is_given_up_and_its_author_told() -> None:
    told: list[str] = []
    with pytest.raises(TimeoutError):
        await within(0.05, never(told))
    assert told == ["given up"]


async def test_whoever_gives_up_waiting_gives_up_the_answer() -> None:
    told: list[str] = []
    waiting = asyncio.create_task(within(60, never(told)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert told == ["given up"]
