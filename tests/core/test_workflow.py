"""Workflows as functions and as LangGraph graphs; failed runs; replay."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime as GraphRuntime
from langgraph.runtime import get_runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from agentsys.agents import agent
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.gateway import PolicyDenied
from agentsys.runs import RunFailed
from agentsys.workflow import Workflow


class State(TypedDict, total=False):
    question: str
    found: Annotated[list[str], operator.add]
    answer: str


def graph() -> StateGraph[Any, Any, Any, Any]:
    async def left(state: State, runtime: GraphRuntime[Context]) -> State:
        context = runtime.context
        context.put("found", "left", "l", type="note")
        return {"found": [(await context.generate(f"left {state['question']}")).value]}

    async def right(state: State) -> State:
        context = get_runtime(Context).context
        assert context.read("found", "left") is None, "a sibling's write is not visible in the same superstep"
        return {"found": [str((await context.ask("detail", state["question"])).value)]}

    async def together(state: State, runtime: GraphRuntime[Context]) -> State:
        written = runtime.context.read("found", "left")
        assert written is not None
        return {"answer": " + ".join([*sorted(state["found"]), written.value])}

    builder = StateGraph(State, context_schema=Context)
    for node in (left, right, together):
        builder.add_node(node)
    builder.add_edge(START, "left").add_edge(START, "right")
    builder.add_edge(["left", "right"], "together").add_edge("together", END)
    return builder


@agent(kind="detail")
async def detailer(context: Context, request: Any) -> str:
    return f"detail of {request.value}"


@pytest.mark.parametrize("compiled", [False, True])
async def test_a_graph_runs_with_a_context_in_every_node(make_runtime, board, compiled):
    body = graph().compile() if compiled else graph()
    workflow = Workflow("graph", body, output="answer")
    runtime = make_runtime(agents=[detailer], workflows=[workflow])
    result = await runtime.run("graph", {"question": "q"}, run_id="g")
    assert result.value == "detail of q + left q + l"
    assert {entry.key: entry.version for entry in board.query(Predicate(topic="found"))} == {"left": 1}
    assert (await runtime.replay("g")).identical


async def test_a_compiled_graph_keeps_its_store_and_how_many_steps_it_may_take(make_runtime):
    async def counts(state: State, runtime: GraphRuntime[Context]) -> State:
        assert runtime.store is not None
        await runtime.store.aput(("steps",), "count", {"n": len(state.get("found", ()))})
        return {"found": ["one"]}

    builder = StateGraph(State, context_schema=Context).add_node("counts", counts).add_edge(START, "counts")
    builder.add_conditional_edges("counts", lambda state: END if len(state["found"]) == 5 else "counts")
    store = InMemoryStore()
    runtime = make_runtime(
        workflows=[
            Workflow("all", builder.compile(store=store)),
            Workflow("few", builder.compile(store=store).with_config(recursion_limit=3)),
        ]
    )
    assert (await runtime.run("all", {})).status == "done"
    kept = store.get(("steps",), "count")
    assert kept is not None and kept.value == {"n": 4}
    failure = (await runtime.run("few", {})).failure
    assert failure is not None and failure.type == "GraphRecursionError"


async def test_a_graph_resumes_without_doing_anything_twice(make_runtime, board):
    class Crash(BaseException):
        pass

    alive = False

    async def last(state: State, runtime: GraphRuntime[Context]) -> State:
        if not alive:
            raise Crash
        return {"answer": "end"}

    builder = graph()
    builder.add_node(last)
    builder.add_edge("together", "last")
    runtime = make_runtime(agents=[detailer])
    workflow = Workflow("graph", builder, output="answer")
    with pytest.raises(Crash):
        await runtime.run(workflow, {"question": "q"}, run_id="g")
    alive = True
    assert (await runtime.resume("g", workflow)).value == "end"
    assert len(runtime.model.requests) == 1
    assert {entry.key: entry.version for entry in board.query(Predicate(topic="found"))} == {"left": 1}


async def test_a_failing_node_fails_the_run_with_its_code(make_runtime):
    async def broken(state: State) -> State:
        raise ConfigurationError("no such thing.")

    builder = StateGraph(State)
    builder.add_node(broken)
    builder.add_edge(START, "broken")
    result = await make_runtime().run(Workflow("graph", builder), {})
    assert result.status == "failed"
    assert result.failure.code == "AGS-0100"


async def test_a_failed_run_is_recorded_and_its_value_cannot_be_taken(make_runtime, board):
    async def workflow(context, value):
        context.put("notes", "lost", 1, type="note")
        raise ZeroDivisionError("by zero")

    runtime = make_runtime(workflows=[workflow])
    result = await runtime.run("workflow", run_id="f")
    assert (result.status, result.failure.type) == ("failed", "ZeroDivisionError")
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        _ = result.value
    assert board.get("notes", "lost") is None
    assert [(record.run, record.status) for record in runtime.runs()] == [("f", "failed")]
    assert (await runtime.replay("f")).identical


async def test_replay_asks_nobody_writes_nothing_and_finds_a_divergence(make_runtime, board):
    answer = "detail"

    @agent(kind="detail")
    async def helper(context, request):
        context.put("notes", "n", answer, type="note")
        await context.generate("think")
        return answer

    async def workflow(context, value):
        await context.now()
        return (await context.ask("detail", value)).value

    runtime = make_runtime(agents=[helper], workflows=[workflow])
    await runtime.run("workflow", "?", run_id="r")
    head, asked = board.head, len(runtime.model.requests)
    report = await runtime.replay("r")
    assert (report.identical, report.complete, report.steps) == (True, True, 3)
    assert (board.head, len(runtime.model.requests)) == (head, asked)
    answer = "another"
    report = await runtime.replay("r")
    assert not report.identical
    assert "helper" in report.divergence
    assert board.head == head


async def test_the_value_goes_only_to_readers_its_label_allows(make_runtime):
    async def workflow(context, value):
        return value

    label = Label(readers=Readers.of("user:ann", "user:bob"))
    result = await make_runtime().run(workflow, "secret", label=label)
    assert result.release(Readers.of("user:ann")) == "secret"
    for audience in (PUBLIC, Readers.of("user:eve")):
        with pytest.raises(PolicyDenied):
            result.release(audience)


def test_a_workflow_without_a_usable_body_or_name_is_refused():
    with pytest.raises(ConfigurationError, match="int"):
        Workflow("w", 3)
    with pytest.raises(ConfigurationError, match="<lambda>"):
        Workflow.of(lambda context, value: None)


async def test_what_a_graph_inside_a_node_wrote_stands_where_it_hands_over_to_the_outer_one(make_runtime, board):
    async def decide(state: State, runtime: GraphRuntime[Context]) -> Command[Any]:
        runtime.context.put("found", "inner", (await runtime.context.generate("which?")).value, type="note")
        return Command(graph=Command.PARENT, goto="after", update={"answer": "handed over"})

    async def after(state: State, runtime: GraphRuntime[Context]) -> State:
        written = runtime.context.read("found", "inner")
        return {"answer": f"{state['answer']}: {written and written.value}"}

    inner = StateGraph(State, context_schema=Context).add_node("decide", decide).add_edge(START, "decide")
    outer = StateGraph(State, context_schema=Context)
    outer.add_node("inner", inner.compile(), destinations=("after",)).add_node("after", after)
    outer.add_edge(START, "inner").add_edge("after", END)
    runtime, workflow = make_runtime(), Workflow("handing", outer, output="answer")
    result = await runtime.run(workflow, {"question": "?"})
    assert result.value == "handed over: which?"
    assert (await runtime.replay(result.run, workflow)).identical
