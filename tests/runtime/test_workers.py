"""Leases of runs, and workers that take what is free. Two openings of one board stand for two processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsys import topics
from agentsys.beginning import RunExists
from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.erasure import erase
from agentsys.blackboard.labels import BOTTOM, NOBODY
from agentsys.blackboard.storage import BoardUnreachable
from agentsys.context import Context
from agentsys.leases import LeaseLost, RunBusy, give_back
from agentsys.retention import compact_board
from agentsys.runs import RunRecord
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import POLL_SECONDS, carry_out
from agentsys.tools import tool
from agentsys.workers import Worker

# PostgreSQL lets one process open a board twice.
from tests.blackboard.conftest import postgres_board, postgres_url  # noqa: F401


class Gate:
    """A workflow that waits until it is let on."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.open = asyncio.Event()

    async def workflow(self, context: Context, value: Any) -> Any:
        self.waiting.set()
        await self.open.wait()
        context.put("t", "k", value, type="item")
        return value


async def double(context: Context, number: int) -> int:
    return number * 2


def runtime_on(board: Board, gate: Gate | None = None) -> Runtime:
    from agentsys.workflow import Workflow

    workflows = [double] if gate is None else [double, Workflow("gated", gate.workflow)]
    return Runtime(board, ScriptedModel(str), workflows=workflows)


@pytest.fixture
def two_boards(postgres_board: str) -> Iterator[tuple[Board, Board]]:  # noqa: F811
    with Board.open(postgres_board) as one, Board.open(postgres_board) as other:
        yield one, other


async def test_a_run_that_a_live_process_executes_is_nobody_elses(two_boards: tuple[Board, Board]) -> None:
    (one, other), gate = two_boards, Gate()
    first, second = runtime_on(one, gate), runtime_on(other, gate)
    running = asyncio.create_task(first.run("gated", 1, run_id="r"))
    await gate.waiting.wait()
    with pytest.raises(RunBusy, match="opening"):
        await second.resume("r")
    with pytest.raises(RunExists):
        await second.run("gated", 2, run_id="r")
    gate.open.set()
    assert (await running).value == 1
    assert (await second.resume("r")).value == 1, "a finished run has a result for everybody"


async def test_a_run_that_ended_is_executed_by_no_process(two_boards: tuple[Board, Board]) -> None:
    (one, other), gate = two_boards, Gate()
    running = asyncio.create_task(runtime_on(one, gate).run("gated", 1, run_id="r"))
    await gate.waiting.wait()
    beside = RunSupervisor(runtime_on(other))
    other.wait_for(one.head)
    assert beside.whereabouts("r") == (False, True)
    gate.open.set()
    await running
    other.wait_for(one.head)
    assert not any(beside.whereabouts("r"))


async def test_a_run_that_was_interrupted_is_given_back(two_boards: tuple[Board, Board]) -> None:
    (one, other), gate = two_boards, Gate()
    running = asyncio.create_task(runtime_on(one, gate).run("gated", 1, run_id="r"))
    await gate.waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.open.set()
    assert (await runtime_on(other, gate).resume("r")).value == 1


async def test_who_lost_a_run_commits_nothing_more(two_boards: tuple[Board, Board]) -> None:
    (one, other), gate = two_boards, Gate()
    running = asyncio.create_task(runtime_on(one, gate).run("gated", 1, run_id="r"))
    await gate.waiting.wait()
    await runtime_on(other, gate).cancel("r")
    one.wait_for(other.head)
    gate.open.set()
    with pytest.raises(LeaseLost):
        await running
    assert RunRecord.load(other, "r").status == "cancelled"
    assert other.get("t", "k") is None


async def test_of_two_who_begin_one_run_or_take_one_the_slower_is_refused(two_boards: tuple[Board, Board]) -> None:
    one, other = two_boards
    first, second = runtime_on(one), runtime_on(other)
    begun = await asyncio.gather(
        *(runtime.run("double", 1, run_id="r") for runtime in (first, second)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in begun) == ["RunExists", "RunResult"]
    await first.enqueue("double", 2, run_id="q")
    other.wait_for(one.head)
    taken = await asyncio.gather(*(runtime.resume("q") for runtime in (first, second)), return_exceptions=True)
    values = [result.value for result in taken if not isinstance(result, BaseException)]
    assert set(values) == {4}
    assert all(isinstance(result, RunBusy) for result in taken if isinstance(result, BaseException))
    # Who comes when the run has ended takes nothing, and is told its value.
    assert 1 <= len([entry for entry in one.history(topics.LEASES, "q") if entry.value["held_by"]]) <= len(values)


async def test_a_worker_takes_what_is_enqueued_the_oldest_first_and_no_more_than_it_may(board: Board) -> None:
    gate, told = Gate(), list[str]()
    runtime = runtime_on(board, gate)
    supervisor = RunSupervisor(runtime)
    worker = Worker(supervisor, most=2, told=lambda record: told.append(record.run))
    for number in range(3):
        await runtime.enqueue("gated", number, run_id=f"r{number}")
    assert await worker.take_runs() == 3
    assert told == ["r0", "r1"]
    gate.open.set()
    await worker.drain()
    assert told == ["r0", "r1", "r2"]
    assert [(await supervisor.wait(run)).value for run in told] == [0, 1, 2]


async def test_a_worker_leaves_alone_what_it_cannot_execute(board: Board) -> None:
    def runtime_with(value: int) -> Runtime:
        async def asking(context: Context, _: Any) -> Any:
            said = (await context.generate(f"say {value}")).value
            await asyncio.sleep(60 if value == 1 else 0)
            return said

        return Runtime(board, ScriptedModel(str), workflows=[asking])

    running = asyncio.create_task(runtime_with(1).run("asking", run_id="changed"))
    while not board.log(run="changed") or len(board.log(run="changed")) < 2:
        await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await runtime_on(board).enqueue("double", 1)
    worker = Worker(RunSupervisor(runtime_with(2)))
    await asyncio.wait_for(worker.drain(), 30)
    assert [error.code for error in worker.broken.values()] == ["AGS-0620"]


async def test_the_label_of_what_an_agent_writes_is_not_touched_by_the_lease(board: Board) -> None:
    async def writes(context: Context, value: Any) -> Any:
        context.put("t", "k", value, type="item")

    await Runtime(board, ScriptedModel(str)).run(writes, 1, run_id="r")
    entry, lease = board.get("t", "k"), board.get(topics.LEASES, "r")
    assert entry is not None
    assert lease is not None
    assert entry.label.readers.members is not None, "not public, as the lease is"
    assert lease.ref not in entry.derived_from


async def test_a_worker_that_drains_waits_for_a_board_that_is_out_of_reach(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        raise BoardUnreachable("gone")

    runtime = runtime_on(board)
    run = await runtime.enqueue("double", 1)
    monkeypatch.setattr(board, "query", gone)
    await asyncio.wait_for(Worker(RunSupervisor(runtime)).drain(), 30)
    assert RunRecord.load(board, run).status == "done"


async def test_a_worker_goes_on_after_the_log_was_compacted_past_what_it_had_seen(board: Board) -> None:
    runtime = runtime_on(board)
    worker = Worker(RunSupervisor(runtime))
    assert await worker.take_runs() == 0
    for run in ("r1", "r2"):
        await runtime.enqueue("double", 1, run_id=run)
    await runtime.resume("r1")
    for _ in range(3):
        await runtime.cancel(await runtime.enqueue("double", 1))
    pinned = RunRecord.load(board, "r2").first_seq
    compact_board(board, Keep())
    assert board.horizon == pinned - 1 > 0
    await asyncio.wait_for(worker.drain(), 30)
    assert {record.status for record in runtime.runs()} == {"done", "cancelled"}


async def test_a_worker_goes_on_after_a_run_was_erased_that_it_was_about_to_take(board: Board) -> None:
    runtime = Runtime(board, ScriptedModel(str), workflows=[double])
    first, erased, last = [await runtime.enqueue("double", number) for number in range(3)]

    def told(record: RunRecord) -> None:
        if record.run == first:
            erase(board, [(topics.RUNS, erased)], "asked for")

    worker = Worker(RunSupervisor(runtime), told=told)
    await worker.drain()
    assert not worker.broken
    assert (await runtime.resume(last)).value == 4


def test_a_worker_needs_room(board: Board) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Worker(RunSupervisor(runtime_on(board)), most=0)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board.open(tmp_path / "board.db") as opened:
        yield opened


async def test_a_run_whose_board_was_out_of_reach_is_taken_again(board: Board) -> None:
    outages = [BoardUnreachable("gone"), BoardUnreachable("still gone")]

    async def unlucky(context: Context, value: Any) -> Any:
        if outages:
            raise outages.pop()
        return value

    runtime = Runtime(board, ScriptedModel(str), workflows=[unlucky])
    run = await runtime.enqueue("unlucky", 1)
    worker = Worker(RunSupervisor(runtime))
    await worker.drain()
    assert not outages and not worker.broken
    assert (await runtime.resume(run)).value == 1


async def test_a_call_that_begins_after_its_run_was_lost_is_not_made(two_boards: tuple[Board, Board]) -> None:
    one, other = two_boards
    made: list[str] = []

    @tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=BOTTOM)
    def note(idempotency_key: str) -> str:
        made.append(idempotency_key)
        return "noted"

    async def calls(context: Context, value: Any) -> Any:
        carried_out = context._carried_out

        async def after_the_loss(*arguments: Any) -> Any:
            lost = other.begin("runtime", run=context.run)
            give_back(context.run, lost)
            other.commit(lost)
            return await carried_out(*arguments)

        context._carried_out = after_the_loss
        return (await context.call("note")).value

    with pytest.raises(LeaseLost):
        await Runtime(one, ScriptedModel(str), tools=[note], workflows=[calls]).run("calls")
    assert not made


async def test_what_a_living_process_began_before_it_lost_the_run_is_waited_for(
    two_boards: tuple[Board, Board],
) -> None:
    one, other = two_boards
    planning = one.begin("user:ann")
    intent = EffectIntent("e", None, "step", "note", EffectClass.IRREVERSIBLE, {}, BOTTOM)
    planning.plan_effect(intent)
    one.commit(planning)
    started = one.start_effect("e")
    waiting = asyncio.create_task(carry_out(other, tool()(lambda: "again"), started, replaying=False))
    await asyncio.sleep(2 * POLL_SECONDS)
    assert not waiting.done()
    one.finish_effect("e", "succeeded", {"value": "noted"}, BOTTOM)
    assert (await waiting).result == {"value": "noted"}
