"""A suite for any LangGraph saver: two writers of one thread must never both succeed while one undoes the other.

Each check takes a saver and raises ``AssertionError`` where an update was lost in silence.
"""

import asyncio
import operator
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

WRITERS = 8


class Count(TypedDict):
    n: Annotated[int, operator.add]


def counting_graph(saver: BaseCheckpointSaver, meet: Callable[[], Awaitable[Any]]):
    async def add(state: Count):
        await meet()
        return {"n": 1}

    graph = StateGraph(Count)
    graph.add_node("add", add)
    graph.add_edge(START, "add")
    graph.add_edge("add", END)
    return graph.compile(checkpointer=saver)


async def concurrent_invokes(saver: BaseCheckpointSaver, thread: dict, durability: str) -> int:
    """Return how many of several concurrent invokes say that they succeeded, and check that each of them counts."""
    meeting = Meeting(WRITERS)
    compiled = counting_graph(saver, meeting.ameet)
    before = (await compiled.aget_state(thread)).values.get("n", 0)

    async def invoke():
        try:
            return await compiled.ainvoke({"n": 0}, thread, durability=durability)
        finally:
            meeting.leave()

    outcomes = await asyncio.gather(*(invoke() for _ in range(WRITERS)), return_exceptions=True)
    succeeded = sum(not isinstance(outcome, BaseException) for outcome in outcomes)
    after = (await compiled.aget_state(thread)).values["n"]
    assert after - before == succeeded, f"{succeeded} succeeded, and the count rose by {after - before}"
    assert succeeded >= 1, f"nobody won: {outcomes}"
    return succeeded


def threads_on_an_empty_thread(saver):
    threads_invoke(saver, named("threads"))


def threads_on_a_used_thread(saver):
    for _ in range(2):
        threads_invoke(saver, named("threads-used"))


def threads_invoke(saver: BaseCheckpointSaver, thread: dict) -> None:
    """Invoke one graph from several threads at once, and check that each success counts."""
    meeting = Meeting(WRITERS)

    def add(state: Count):
        meeting.meet()
        return {"n": 1}

    graph = StateGraph(Count)
    graph.add_node("add", add)
    graph.add_edge(START, "add")
    compiled = graph.compile(checkpointer=saver)
    before = compiled.get_state(thread).values.get("n", 0)

    def invoke(_):
        try:
            compiled.invoke({"n": 0}, thread, durability="sync")
        except Exception as error:
            return error
        finally:
            meeting.leave()

    with ThreadPoolExecutor(WRITERS) as pool:
        outcomes = list(pool.map(invoke, range(WRITERS)))
    succeeded = outcomes.count(None)
    after = compiled.get_state(thread).values["n"]
    assert after - before == succeeded >= 1, f"{succeeded} succeeded, and the count rose by {after - before}"


async def empty_thread_sync(saver):
    await concurrent_invokes(saver, named("empty-sync"), "sync")


async def empty_thread_async(saver):
    await concurrent_invokes(saver, named("empty-async"), "async")


async def empty_thread_exit(saver):
    await concurrent_invokes(saver, named("empty-exit"), "exit")


async def used_thread(saver):
    for _ in range(2):
        await concurrent_invokes(saver, named("used"), "sync")


async def used_thread_async(saver):
    for _ in range(2):
        await concurrent_invokes(saver, named("used-async"), "async")


async def used_thread_exit(saver):
    for _ in range(2):
        await concurrent_invokes(saver, named("used-exit"), "exit")


async def updates_beside_a_run(saver):
    """A state that somebody updates while a run goes on is not lost, or the run says so."""
    thread = named("beside")

    async def meddle():
        await compiled.aupdate_state(thread, {"n": 10}, as_node="add")

    compiled = counting_graph(saver, meddle)
    try:
        await compiled.ainvoke({"n": 0}, thread, durability="sync")
        expected = 11
    except Exception:
        expected = 10
    assert (await compiled.aget_state(thread)).values["n"] == expected


async def answers_to_one_question(saver):
    """Of two answers to one interrupt, one counts and the other is refused."""
    answers: list[str] = []
    meeting = Meeting(2)

    async def ask(state: Count):
        answer = interrupt("how many?")
        await meeting.ameet()
        answers.append(answer)
        return {"n": answer}

    graph = StateGraph(Count)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    compiled, thread = graph.compile(checkpointer=saver), named("answers")
    await compiled.ainvoke({"n": 0}, thread, durability="sync")

    async def answer(value: int):
        try:
            return await compiled.ainvoke(Command(resume=value), thread, durability="sync")
        finally:
            meeting.leave()

    outcomes = await asyncio.gather(answer(1), answer(100), return_exceptions=True)
    succeeded = [outcome["n"] for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert succeeded == [(await compiled.aget_state(thread)).values["n"]], f"the answers became {outcomes}"


async def writes_of_a_loser(saver):
    """What a stale writer's task wrote does not appear among the pending writes of the checkpoint it had read."""
    thread = named("loser")
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait():
        entered.set()
        await go_on.wait()

    slow, quick = counting_graph(saver, wait), counting_graph(saver, nothing)
    await quick.ainvoke({"n": 0}, thread, durability="sync")
    loser = asyncio.create_task(slow.ainvoke({"n": 0}, thread, durability="sync"))
    await entered.wait()
    read = (await slow.aget_state(thread)).config
    await quick.ainvoke({"n": 0}, thread, durability="sync")
    go_on.set()
    outcome = (await asyncio.gather(loser, return_exceptions=True))[0]
    found = await saver.aget_tuple(read)
    assert isinstance(outcome, Exception), "the stale run succeeded"
    assert [write for write in found.pending_writes if write[1] == "n"] == [], "the stale run wrote all the same"


class Meeting:
    """Lets all who have not given up go on together, so that every one has read before any ends."""

    def __init__(self, parties: int) -> None:
        self._missing, self._open, self._guard = parties, threading.Event(), threading.Lock()

    def meet(self) -> None:
        self.leave()
        assert self._open.wait(30)

    async def ameet(self) -> None:
        self.leave()
        while not self._open.is_set():
            await asyncio.sleep(0.001)

    def leave(self) -> None:
        """Count as having come; also for who never will."""
        with self._guard:
            self._missing -= 1
            if self._missing <= 0:
                self._open.set()


def named(thread: str) -> dict:
    return {"configurable": {"thread_id": thread}}


async def nothing() -> None:
    pass


ASYNC_CHECKS = [
    empty_thread_sync,
    empty_thread_async,
    empty_thread_exit,
    used_thread,
    used_thread_async,
    used_thread_exit,
    updates_beside_a_run,
    answers_to_one_question,
    writes_of_a_loser,
]
SYNC_CHECKS = [threads_on_an_empty_thread, threads_on_a_used_thread]
