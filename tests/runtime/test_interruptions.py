"""Runs that are begun, ended and interrupted at the worst moment lose nothing and hold nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agentsys import topics
from agentsys.agents import Request, UnknownAgent, agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardFull, BoardUnreachable, StorageFailed
from agentsys.blackboard.transactions import Transaction
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.gateway import PolicyDenied
from agentsys.journal import ReplayDivergence
from agentsys.policy.documents import read_policy
from agentsys.runs import RunRecord
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import UnknownTool
from agentsys.tools import tool
from agentsys.workers import Worker


async def double(context: Context, number: int) -> int:
    return number * 2


@pytest.fixture
def board() -> Iterator[Board]:
    with Board.open(":memory:") as opened:
        yield opened


@pytest.fixture
def runtime(board: Board) -> Runtime:
    return Runtime(board, ScriptedModel(str), workflows=[double])


def cancelling(
    task: asyncio.Task[Any], board: Board, monkeypatch: pytest.MonkeyPatch, kind: type = object
) -> Callable[[Transaction], Future[Commit]]:
    """Return what cancels ``task`` during its first commit of an operation of ``kind``."""
    submit = board.submit

    def submitting(transaction: Transaction) -> Future[Commit]:
        if any(isinstance(operation, kind) for operation in transaction._operations):
            monkeypatch.undo()
            task.cancel()
        return submit(transaction)

    return submitting


def failing(board: Board, monkeypatch: pytest.MonkeyPatch, kind: str, error: Exception) -> None:
    """Let the first commit of a step of ``kind`` fail."""
    submit = board.submit

    def submitting(transaction: Transaction) -> Future[Commit]:
        steps: list[Any] = [one for one in transaction._operations if getattr(one, "type", None) == "step"]
        if not any(step.value["kind"] == kind for step in steps):
            return submit(transaction)
        monkeypatch.undo()
        failed: Future[Commit] = Future()
        failed.set_exception(error)
        return failed

    monkeypatch.setattr(board, "submit", submitting)


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


async def test_of_two_who_enqueue_one_run_at_once_one_is_refused(board: Board, runtime: Runtime) -> None:
    begun = await asyncio.gather(
        *(runtime.enqueue("double", number, run_id="r") for number in (1, 2)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in begun) == ["RunExists", "str"]
    assert len(board.history(topics.RUNS, "r")) == 1
    assert (await runtime.resume("r")).value == 2 * (1 + begun.index("r"))


@pytest.mark.parametrize("taken", ["run", "resume"])
async def test_a_run_that_is_interrupted_as_it_is_taken_is_given_back(
    board: Board, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    if taken == "resume":
        await runtime.enqueue("double", 4, run_id="r")
    taking = asyncio.create_task(runtime.run("double", 4, run_id="r") if taken == "run" else runtime.resume("r"))
    monkeypatch.setattr(board, "submit", cancelling(taking, board, monkeypatch))
    with pytest.raises(asyncio.CancelledError):
        await taking
    lease = board.get(topics.LEASES, "r")
    assert lease is not None
    assert lease.value == {"held_by": 0}


async def test_a_board_is_closed_where_a_runtime_is_refused_or_a_tool_fails_to_close(
    tmp_path: Path,
) -> None:
    @tool(effect=EffectClass.PURE)
    def same() -> int:
        return 1

    class Stuck:
        prefix = "far."

        def __init__(self, closed: list[str], fault: str = "") -> None:
            self.closed, self.fault = closed, fault

        def known(self) -> dict[str, Any]:
            return {}

        async def discover(self, name: str | None = None) -> None:
            return

        async def close(self) -> None:
            self.closed.append(self.prefix)
            if self.fault:
                raise OSError(self.fault)

    path, closed = tmp_path / "board.db", list[str]()
    with pytest.raises(ConfigurationError, match="Two tools"):
        Runtime.local(path, tools=[same, same])
    runtime = Runtime.local(path)
    near = Stuck(closed)
    near.prefix = "near."
    for source in (near, Stuck(closed, "gone")):
        runtime.tools.attach(source)
    with pytest.raises(OSError, match="gone"):
        await runtime.close()
    assert sorted(closed) == ["far.", "near."]
    Board.open(path).close()


async def test_a_divergence_of_which_code_makes_another_error_does_not_fail_the_run(board: Board) -> None:
    waiting, on = asyncio.Event(), asyncio.Event()

    def runtime_asking(question: str) -> Runtime:
        async def asks(context: Context, _: Any) -> Any:
            try:
                said = (await context.generate(question)).value
            except Exception as error:
                raise ValueError("no answer") from error
            waiting.set()
            await on.wait()
            return said

        return Runtime(board, ScriptedModel(str), workflows=[asks])

    running = asyncio.create_task(runtime_asking("one").run("asks", run_id="r"))
    await waiting.wait()
    running.cancel()
    await asyncio.wait([running])
    on.set()
    with pytest.raises(ReplayDivergence):
        await runtime_asking("two").resume("r")
    assert (await runtime_asking("one").resume("r")).value == "one"


async def test_a_conflict_of_which_code_makes_another_error_is_judged_all_the_same(board: Board) -> None:
    async def asks(context: Context, _: Any) -> Any:
        found = context.read("t", "k")
        if context.actor.attempt == 1:
            other = board.begin(OWNER)
            other.put("t", "k", 1, type="item")
            board.commit(other)
        context.put("t", "k", 2, type="item")
        try:
            await context.ask("nothing")
        except Exception as error:
            raise ValueError("nobody could be asked") from error
        return found.value if found else None

    assert (await Runtime(board, ScriptedModel(str)).run(asks)).value == 1


async def test_an_outage_that_code_swallows_interrupts_the_run(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    async def careful(context: Context, _: Any) -> Any:
        try:
            return (await context.generate("hello")).value
        except Exception:
            return "nothing"

    runtime = Runtime(board, ScriptedModel(str), workflows=[careful])
    failing(board, monkeypatch, "generate", BoardUnreachable("gone"))
    with pytest.raises(BoardUnreachable):
        await runtime.run("careful", run_id="r")
    assert (await runtime.resume("r")).value == "hello"
    report = await runtime.replay("r")
    assert (report.identical, report.complete) == (True, True)


async def test_an_outage_below_swallowed_by_who_asked_interrupts_the_run(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agent(kind="fact")
    async def knows(context: Context, request: Request) -> Any:
        return (await context.generate("hello")).value

    async def careful(context: Context, _: Any) -> Any:
        try:
            return (await context.ask("fact")).value
        except Exception:
            return "nothing"

    runtime = Runtime(board, ScriptedModel(str), workflows=[careful], agents=[knows])
    failing(board, monkeypatch, "generate", BoardUnreachable("gone"))
    with pytest.raises(BoardUnreachable):
        await runtime.run("careful", run_id="r")
    assert (await runtime.resume("r")).value == "hello"


async def test_an_outage_takes_nothing_back(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    booked: list[str] = []

    @tool(effect=EffectClass.COMPENSABLE, audience=NOBODY, source=BOTTOM, undo=lambda: booked.clear())
    def reserve(room: str) -> str:
        booked.append(room)
        return room

    async def trip(context: Context, _: Any) -> Any:
        async with context.saga():
            await context.call("reserve", room="a")
            return (await context.generate("thanks")).value

    runtime = Runtime(board, ScriptedModel(str), workflows=[trip], tools=[reserve])
    failing(board, monkeypatch, "generate", BoardUnreachable("gone"))
    with pytest.raises(BoardUnreachable):
        await runtime.run("trip", run_id="r")
    assert booked == ["a"]
    assert (await runtime.resume("r")).value == "thanks"
    assert booked == ["a"]


@pytest.mark.parametrize("error", [BoardFull("the disk is full"), StorageFailed("the disk does not answer")])
async def test_a_run_outlives_a_disk_that_is_full_or_broken_for_a_while(
    board: Board, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    @agent(kind="fact")
    async def knows(context: Context, request: Request) -> Any:
        return (await context.generate("hello")).value

    async def asks(context: Context, _: Any) -> Any:
        return (await context.ask("fact")).value

    runtime = Runtime(board, ScriptedModel(str), workflows=[asks], agents=[knows])
    await runtime.enqueue("asks", run_id="r")
    failing(board, monkeypatch, "generate", error)
    worker = Worker(RunSupervisor(runtime))
    await asyncio.wait_for(worker.drain(), 30)
    assert not worker.broken
    assert (await runtime.resume("r")).value == "hello"


@pytest.mark.parametrize("missing", ["agents", "tools"])
async def test_a_run_that_was_resumed_without_what_it_needs_goes_on_once_that_is_there(
    board: Board, missing: str
) -> None:
    waiting, on = asyncio.Event(), asyncio.Event()

    async def waits(context: Context, request: Request) -> Any:
        said = (await context.call("triple", number=2)).value
        waiting.set()
        await on.wait()
        return said

    @tool(effect=EffectClass.PURE)
    def triple(number: int) -> int:
        return 3 * number

    async def asks(context: Context, _: Any) -> Any:
        return (await context.ask("fact")).value

    given: dict[str, Any] = {"agents": [agent(kind="fact")(waits)], "tools": [triple]}

    def runtime_with(given: dict[str, Any]) -> Runtime:
        return Runtime(board, ScriptedModel(str), workflows=[asks], **given)

    running = asyncio.create_task(runtime_with(given).run("asks", run_id="r"))
    await waiting.wait()
    running.cancel()
    await asyncio.wait([running])
    on.set()
    with pytest.raises(UnknownAgent if missing == "agents" else UnknownTool):
        await runtime_with({**given, missing: []}).resume("r")
    assert (await runtime_with(given).resume("r")).value == 6


async def test_what_was_decided_while_others_spent_at_once_is_on_record(board: Board) -> None:
    @tool(effect=EffectClass.PURE)
    def same(number: int) -> int:
        return number

    async def main(context: Context, _: Any) -> None:
        async def writes_where_it_may_not() -> None:
            with pytest.raises(PolicyDenied):
                context.put(topics.RUNS, "k", 1, type="item")

        spending = (context.call("same", number=number) for number in range(2))
        await asyncio.gather(*spending, writes_where_it_may_not())

    policy = read_policy("[tools.same]\nlimits = { run = 10 }\n")
    result = await Runtime(board, ScriptedModel(str), tools=[same], policy=policy).run(main)
    assert result.status == "done", result.failure
    decided: list[Any] = [entry.value for entry in board.query(Predicate(topic=topics.decisions(result.run)))]
    rules = sorted(decision["rule"] for decision in decided)
    assert rules == ["harmless", "harmless", "reserved-topic"]
