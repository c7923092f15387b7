"""LangGraph's interrupt() in a run on the runtime: the owner is asked, and the node goes on with the answer."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime as GraphRuntime
from langgraph.types import Command, interrupt

from agentsys.blackboard.board import Board
from agentsys.blackboard.merges import Add
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.workflow import Workflow


class Draft(TypedDict, total=False):
    text: str
    title: str
    published: bool


entered: list[str] = []


async def review(state: Draft) -> Any:
    entered.append("review")
    title = interrupt({"ask": "Which title?", "text": state["text"]})
    verdict = interrupt("Publish?")
    return Command(update={"title": title}, goto="publish" if verdict == "yes" else END)


async def publish(state: Draft) -> Draft:
    return {"published": True}


def reviewed() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Draft)
    graph.add_node("review", review, destinations=("publish", END))
    graph.add_node("publish", publish)
    graph.add_edge(START, "review")
    return graph


async def answer(runtime: Runtime, value: Any) -> Any:
    while not (found := runtime.approvals("pending")):
        await asyncio.sleep(0.01)
    await runtime.decide(found[0].id, "approve", answer=value)
    return found[0].arguments


async def test_a_node_is_entered_again_with_the_answers_and_branches_on_them():
    entered.clear()
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[Workflow("draft", reviewed())])
        running = asyncio.create_task(runtime.run("draft", {"text": "Ships sail."}))
        assert await answer(runtime, "On ships") == {"ask": "Which title?", "text": "Ships sail."}
        assert await answer(runtime, "yes") == "Publish?"
        result = await running
        assert result.value == {"text": "Ships sail.", "title": "On ships", "published": True}
        assert entered == ["review"] * 3
        assert (await runtime.replay(result.run)).identical
        running = asyncio.create_task(runtime.run("draft", {"text": "x"}))
        await answer(runtime, "t")
        await answer(runtime, "no")
        assert "published" not in (await running).value


async def test_a_refused_answer_fails_the_run():
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[Workflow("draft", reviewed())])
        running = asyncio.create_task(runtime.run("draft", {"text": "x"}))
        while not (found := runtime.approvals("pending")):
            await asyncio.sleep(0.01)
        await runtime.decide(found[0].id, "reject", note="no time")
        failure = (await running).failure
        assert failure is not None and failure.code == "AGS-0607" and "no time" in failure.message


async def test_a_graph_inside_a_node_that_interrupts_is_a_clear_failure():
    inner = StateGraph(Draft)
    inner.add_node("review", review, destinations=(END,))
    inner.add_edge(START, "review")
    outer = StateGraph(Draft)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str))
        failure = (await asyncio.wait_for(runtime.run(Workflow("outer", outer), {"text": "x"}), 20)).failure
        assert failure is not None and failure.code == "AGS-0606"
        assert runtime.approvals() == []


async def test_what_a_node_wrote_before_it_was_entered_again_is_written_once():
    async def counts(state: Draft, runtime: GraphRuntime[Context]) -> Draft:
        runtime.context.merge("drafts", "count", Add(1), type="count")
        if interrupt("Which title?") == "none":
            return {}
        runtime.context.put("drafts", "kept", interrupt("Keep it?"), type="answer")
        return {}

    graph = StateGraph(Draft, context_schema=Context).add_node("counts", counts).add_edge(START, "counts")
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[Workflow("draft", graph)])
        running = asyncio.create_task(runtime.run("draft", {"text": "x"}))
        await answer(runtime, "On ships")
        await answer(runtime, "yes")
        result = await running
        assert result.status == "done", result.failure
        written = {entry.key: entry.value for entry in board.query(Predicate(topic="drafts"))}
        assert written == {"count": 1, "kept": "yes"}
        assert (await runtime.replay(result.run)).identical


@pytest.mark.parametrize("around", ["interrupt_before", "interrupt_after"])
async def test_a_graph_compiled_to_interrupt_around_a_node_does_not_go_on_as_if_it_was_not(around: str):
    options: Any = {around: ["publish"]}
    graph = StateGraph(Draft).add_node("publish", publish).add_edge(START, "publish").compile(**options)
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str))
        result = await runtime.run(Workflow("draft", graph), {"text": "x"})
        assert result.failure is not None and result.failure.code == "AGS-0606"
        assert "publish" in result.failure.message
