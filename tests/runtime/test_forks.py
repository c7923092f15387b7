"""Forks: what was recorded is taken over and not done again, the rest goes its own way, and the first run stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentsys import topics
from agentsys.agents import agent
from agentsys.beginning import RunExists
from agentsys.blackboard.board import Board
from agentsys.blackboard.erasure import erase, find
from agentsys.blackboard.labels import NOBODY, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import HistoryCompacted
from agentsys.forks import ForkOutside
from agentsys.policy.policy import Policy
from agentsys.runs import UnknownRun
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool

asked: list[str] = []
sent: list[str] = []


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
def send(text: str) -> int:
    sent.append(text)
    return len(sent)


async def story(context: Any, text: Any) -> Any:
    first = (await context.generate("first")).value
    number = (await context.call("send", text="one")).value
    note = context.read("notes", "tone")
    second = (await context.generate(f"second {note.value if note else 'plain'}")).value
    return [first, number, second]


def answer(prompt: str) -> str:
    asked.append(prompt)
    return f"{prompt} #{len(asked)}"


@pytest.fixture
def runtime() -> Any:
    asked.clear()
    sent.clear()
    with Board.open(":memory:") as board:
        yield Runtime(board, ScriptedModel(answer), tools=[send], workflows=[story], policy=Policy.of())


def write(runtime: Runtime, tone: str) -> None:
    transaction = runtime.board.begin("user:owner")
    transaction.put("notes", "tone", tone, type="note", label=Label.trusted())
    runtime.board.commit(transaction)


def commit_of(runtime: Runtime, run: str, number: int) -> int:
    steps = runtime.board.query(Predicate(topic=topics.steps(run)))
    return sorted(step.seq for step in steps)[number]


async def test_a_fork_of_the_beginning_does_everything_again(runtime: Runtime):
    first = await runtime.run("story", "x", run_id="a")
    again = await runtime.fork("a")
    assert first.value == ["first #1", 1, "second plain #2"] and again.value == ["first #3", 2, "second plain #4"]
    assert again.record.origin == {"forked_from": {"run": "a", "at": first.record.first_seq}}


async def test_a_fork_in_the_middle_takes_over_what_was_done(runtime: Runtime):
    await runtime.run("story", "x", run_id="a")
    at = runtime.board.effects(run="a")[-1].seq
    fork = await runtime.fork("a", at=at, run_id="b")
    assert fork.value == ["first #1", 1, "second plain #3"], "only the second question was asked again"
    assert sent == ["one"]
    assert (await runtime.replay("a")).identical and (await runtime.replay("b")).identical
    deeper = await runtime.fork("b", at=fork.record.first_seq, run_id="c")
    assert deeper.value == ["first #1", 1, "second plain #4"] and deeper.record.snapshot == fork.record.snapshot


async def test_a_fork_reads_the_board_as_the_first_run_saw_it_or_judges_the_change(runtime: Runtime):
    write(runtime, "dry")
    await runtime.run("story", "x", run_id="a")
    at = runtime.board.effects(run="a")[-1].seq
    write(runtime, "merry")
    fork = await runtime.fork("a", at=at, run_id="b")
    assert asked[2] == "second dry"
    # What it read had changed, so its first attempt conflicted, and the second one saw the change.
    assert fork.value[2].startswith("second merry") and sent == ["one"]


async def test_a_call_that_still_waited_is_asked_about_anew(runtime: Runtime):
    runtime.policy = Policy.of(asks=["send"])
    careful = Runtime(runtime.board, runtime.model, tools=[send], workflows=[story], policy=runtime.policy)
    running = asyncio.create_task(careful.run("story", "x", run_id="a"))
    while not (first := careful.approvals("pending")):
        await asyncio.sleep(0.01)
    forking = asyncio.create_task(careful.fork("a", at=careful.board.head, run_id="b"))
    while len(both := careful.approvals("pending")) < 2:
        await asyncio.sleep(0.01)
    await careful.decide(next(one.id for one in both if one.run == "b"), "approve")
    assert (await forking).value == ["first #1", 1, "second plain #2"]
    await careful.decide(first[0].id, "reject")
    assert (await running).status == "failed" and sent == ["one"]


@pytest.mark.parametrize("verdict", ["approve", "reject"])
async def test_a_call_in_doubt_is_asked_about_anew_whatever_was_said_before(runtime: Runtime, verdict: Any):
    hanging = [3600.0]

    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted(), timeout=0.05)
    async def send(text: str) -> str:
        await asyncio.sleep(hanging[0])
        return "sent"

    async def sending(context: Any, text: Any) -> Any:
        return (await context.call("send", text="one")).value

    policy = Policy.of(asks=["send"])
    careful = Runtime(runtime.board, runtime.model, tools=[send], workflows=[sending], policy=policy)

    async def decided(running: asyncio.Task[Any], verdict: Any) -> Any:
        while not (pending := careful.approvals("pending")):
            assert not running.done(), running.result()
            await asyncio.sleep(0.01)
        await careful.decide(pending[0].id, verdict)
        return await running

    assert (await decided(asyncio.create_task(careful.run("sending", run_id="a")), "approve")).status == "failed"
    hanging[0] = 0.0
    (effect,) = careful.board.effects(state="in_doubt")
    fork = await decided(asyncio.create_task(careful.fork("a", at=effect.seq)), verdict)
    assert (fork.status, fork.record.value) == (("done", "sent") if verdict == "approve" else ("failed", None))
    assert verdict == "approve" or (fork.failure is not None and fork.failure.code == "AGS-0310")


async def test_what_cannot_be_forked(runtime: Runtime):
    write(runtime, "dry")
    await runtime.run("story", "x", run_id="a")
    with pytest.raises(UnknownRun):
        await runtime.fork("none")
    with pytest.raises(ForkOutside):
        await runtime.fork("a", at=1)
    with pytest.raises(RunExists):
        await runtime.fork("a", run_id="a")


async def listen(context: Any, text: Any) -> Any:
    return (await context.ask("who")).value


@agent(kind="who")
async def teller(context: Any, request: Any) -> Any:
    return context.read("people", "ann").value


@pytest.fixture
def told(runtime: Runtime) -> Runtime:
    """A runtime one of whose agents tells what it read about a person."""
    transaction = runtime.board.begin("user:owner")
    transaction.put("people", "ann", "42 years", type="person", label=Label.trusted())
    runtime.board.commit(transaction)
    return Runtime(runtime.board, runtime.model, agents=[teller], workflows=[listen], policy=Policy.of())


async def test_what_a_fork_took_over_is_erased_with_what_it_came_from(told: Runtime):
    await told.run("listen", run_id="a")
    assert (await told.fork("a", at=told.board.head, run_id="b")).value == "42 years"
    found = find(told.board, Predicate(topic="people"), derived=True)
    assert {topic.split("/")[1] for topic, _ in found if "/responses/" in topic} == {"a", "b"}


async def test_what_was_erased_cannot_be_taken_over(told: Runtime):
    at = (await told.run("listen", run_id="a")).record.first_seq
    head = told.board.head
    derived = find(told.board, Predicate(topic="people"), derived=True)
    erase(told.board, [address for address in derived if address != (topics.RUNS, "a")], "asked for")
    with pytest.raises(HistoryCompacted, match="was erased"):
        await told.fork("a", at=head)
    with pytest.raises(HistoryCompacted):
        await told.fork("a", at=told.board.head)
    assert told.board.get(topics.RUNS, "a") is not None
    assert (await told.fork("a", at=at)).status == "failed", "of the beginning nothing was erased"
