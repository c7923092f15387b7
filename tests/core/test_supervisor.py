"""Runs in the background: started, watched by many, cancelled, resumed."""

import asyncio
import contextlib

import pytest

from agentsys import cancellation, runtime, topics
from agentsys.beginning import RunExists
from agentsys.events import RunFinished, RunStarted, TokensStreamed
from agentsys.leases import LeaseLost, RunBusy
from agentsys.runs import RunRecord, UnknownRun
from agentsys.runtime import UnknownWorkflow
from agentsys.supervisor import RunSupervisor
from agentsys.workers import POLL_SECONDS, Worker


async def echo(context, text):
    return (await context.generate(text)).value


@pytest.fixture
def gate():
    return asyncio.Event()


@pytest.fixture
def supervised(make_runtime, gate):
    async def held(context, text):
        await gate.wait()
        return (await context.generate(text)).value

    return RunSupervisor(make_runtime(workflows=[echo, held]))


async def test_every_watcher_sees_the_whole_run(supervised, gate):
    run = await supervised.start("held", "hello")
    early = asyncio.create_task(collect(supervised, run))
    gate.set()
    result = await supervised.wait(run)
    assert (result.status, result.value) == ("done", "hello")
    late = await collect(supervised, run)
    assert await early == late
    kinds = [type(event) for _, event in late]
    assert kinds[0] is RunStarted and kinds[-1] is RunFinished and TokensStreamed in kinds
    pieces = [event for _, event in late if isinstance(event, TokensStreamed)]
    assert all(piece.tokens == 1 for piece in pieces), "a model that tells no ids is taken to send a token a piece"
    assert [number for number, _ in late] == list(range(1, len(late) + 1))
    assert supervised.events(run, after=len(late) - 1) == late[-1:]


async def test_a_cancelled_run_ends_for_good(supervised):
    run = await supervised.start("held", "hello")
    watching = asyncio.create_task(collect(supervised, run))
    await supervised.cancel(run)
    await watching
    assert (await supervised.wait(run)).status == "cancelled"
    assert await supervised.resume(run) == run
    assert not supervised.executing(run)
    assert RunRecord.load(supervised.runtime.board, run).status == "cancelled"


@pytest.mark.parametrize("ticks", range(8))
async def test_a_run_that_is_cancelled_while_it_begins_ends_for_good(supervised, ticks):
    starting = asyncio.create_task(supervised.start("held", "hello", run_id="r"))
    await asyncio.sleep(0)
    for _ in range(ticks):
        await asyncio.sleep(0.0005)
    await supervised.cancel("r")
    assert await starting == "r"
    assert (await supervised.wait("r")).status == "cancelled"
    assert not supervised.executing("r")


async def test_a_run_that_is_taken_while_it_is_cancelled_ends_for_good(supervised, monkeypatch):
    run = await supervised.runtime.enqueue("held", "hello")
    record = runtime.record_cancelled

    async def record_late(*arguments):
        await supervised.resume(run)
        await record(*arguments)

    monkeypatch.setattr(runtime, "record_cancelled", record_late)
    await supervised.cancel(run)
    assert not supervised.executing(run)
    assert (await supervised.wait(run)).status == "cancelled"


async def test_cancelling_a_run_that_cannot_begin_finds_none(supervised):
    starting = asyncio.create_task(supervised.start("nothing of this name", "hello", run_id="r"))
    await asyncio.sleep(0)
    with pytest.raises(UnknownRun):
        await supervised.cancel("r")
    with pytest.raises(UnknownWorkflow):
        await starting


async def test_whoever_waits_for_a_run_that_just_begins_waits_for_its_end(supervised, gate):
    starting = asyncio.create_task(supervised.start("held", "hello", run_id="r"))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(supervised.wait("r"))
    gate.set()
    assert (await waiting).value == "hello"
    await starting


async def test_whoever_waits_for_a_run_that_is_cancelled_finds_it_so(supervised):
    run = await supervised.start("held", "hello")
    waiting = asyncio.create_task(supervised.wait(run))
    watching = asyncio.create_task(collect(supervised, run))
    watching.add_done_callback(lambda _: found.append(RunRecord.load(supervised.runtime.board, run).status))
    found = []
    await asyncio.sleep(0)
    await supervised.cancel(run)
    assert (await waiting).status == "cancelled"
    await watching
    await asyncio.sleep(0)
    assert found == ["cancelled"]


async def test_closing_leaves_runs_to_be_resumed(supervised, gate):
    run = await supervised.start("held", "hello")
    await supervised.close()
    assert RunRecord.load(supervised.runtime.board, run).status == "running"
    assert supervised.events(run)[-1][1] == RunFinished(run, "interrupted")
    gate.set()
    later = RunSupervisor(supervised.runtime)
    await later.resume(run)
    assert (await later.wait(run)).value == "hello"


async def test_closing_leaves_nothing_under_way(make_runtime, gate):
    """A worker looks five times a second for runs that nobody executes, also while a slow one is being interrupted."""

    async def held(context, text):
        await gate.wait()

    async def lingers(context, text):
        try:
            await gate.wait()
        finally:
            await asyncio.sleep(3 * POLL_SECONDS)

    supervised = RunSupervisor(make_runtime(workflows=[held, lingers]))
    working = asyncio.create_task(Worker(supervised).serve())
    runs = [await supervised.start("held"), await supervised.start("lingers")]
    beginning = asyncio.create_task(supervised.start("held", run_id="third"))
    await asyncio.sleep(0)
    await supervised.close()
    assert not any(map(supervised.executing, [*runs, "third"]))
    with pytest.raises(RunBusy):
        await beginning
    assert {record.status for record in supervised.runtime.runs()} == {"running"}
    working.cancel()
    await asyncio.wait([working])


async def test_closing_goes_on_without_a_run_that_does_not_let_itself_be_interrupted(make_runtime, monkeypatch, caplog):
    monkeypatch.setattr(cancellation, "PATIENCE_SECONDS", 0.02)
    released, ended = asyncio.Event(), []

    async def stubborn(context, text):
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    async def follower():
        ended.append("follower")

    supervised = RunSupervisor(make_runtime(workflows=[stubborn]))
    supervised.close_with(follower)
    run = await supervised.start("stubborn", "now")
    supervised.abandon(run, by="user:owner")
    async with asyncio.timeout(20):
        await supervised.close()
    assert ended == ["follower"] and f"run {run}" in caplog.text
    released.set()
    async with asyncio.timeout(20):
        while supervised.at_work:
            await asyncio.sleep(0)


async def test_cancelling_ends_a_run_for_good_that_does_not_let_itself_be_interrupted(make_runtime, monkeypatch):
    monkeypatch.setattr(cancellation, "PATIENCE_SECONDS", 0.02)
    released = asyncio.Event()

    async def stubborn(context, text):
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    supervised = RunSupervisor(make_runtime(workflows=[stubborn]))
    run = await supervised.start("stubborn", "now")
    async with asyncio.timeout(20):
        await supervised.cancel(run)
    assert RunRecord.load(supervised.runtime.board, run).status == "cancelled"
    released.set()
    async with asyncio.timeout(20):
        with pytest.raises(LeaseLost):
            await supervised.wait(run)
    assert RunRecord.load(supervised.runtime.board, run).status == "cancelled"


async def test_closing_interrupts_a_run_that_just_begins(supervised):
    starting = asyncio.create_task(supervised.start("held", "hello", run_id="r"))
    await asyncio.sleep(0)
    await supervised.close()
    with pytest.raises(RunBusy):
        await starting
    assert not supervised.executing("r")
    lease = supervised.runtime.board.get(topics.LEASES, "r")
    assert lease is None or lease.value == {"held_by": 0}


async def test_whoever_watched_a_run_that_was_interrupted_sees_how_it_goes_on(supervised, gate):
    run = await supervised.start("held", "hello")
    watching = supervised.stream(run)
    working = supervised._watched[run].task
    working.cancel()
    await asyncio.wait([working])
    seen = [number async for number, _ in watching][-1]
    gate.set()
    await supervised.resume(run)
    await supervised.wait(run)
    later = [(number, type(event)) async for number, event in supervised.stream(run, after=seen)]
    assert later[0][0] > seen and later[0][1] is RunStarted
    assert later[-1][1] is RunFinished


async def test_whoever_watched_a_run_before_a_restart_sees_all_of_how_it_goes_on(make_runtime, gate):
    async def held(context, text):
        for _ in range(10):
            await context.generate(text)
        await gate.wait()

    def restarted():
        return RunSupervisor(make_runtime(workflows=[held]))

    supervised = restarted()
    run = await supervised.start("held", "hello")
    async with asyncio.timeout(10):
        while len(supervised.events(run)) < 10:
            await asyncio.sleep(0.01)
    await supervised.close()
    for _ in range(2):
        seen = supervised.events(run)[-1][0]
        supervised = restarted()
        await supervised.resume(run)
        await supervised.close()
        later = supervised.events(run, after=seen)
        assert later == supervised.events(run) and isinstance(later[0][1], RunStarted)


async def test_what_cannot_start_is_the_callers_error(supervised):
    with pytest.raises(UnknownWorkflow):
        await supervised.start("nothing")
    run = await supervised.start("echo", "x")
    await supervised.wait(run)
    with pytest.raises(RunExists):
        await supervised.start("echo", "x", run_id=run)
    for operation in (supervised.cancel, supervised.resume, supervised.wait):
        with pytest.raises(UnknownRun):
            await operation("nobody")


async def test_a_run_is_executed_once_at_a_time(supervised, gate):
    run = await supervised.start("held", "x")
    with pytest.raises(RunBusy):
        await supervised.resume(run)
    gate.set()
    await supervised.wait(run)


async def collect(supervised, run):
    return [numbered async for numbered in supervised.stream(run)]
