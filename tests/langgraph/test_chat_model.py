"""An unmodified LangGraph graph (a tool-calling agent) runs on the runtime, labelled, recorded and replayed."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import EXTERNAL
from agentsys.chat_model import EmbeddedChatModel
from agentsys.langgraph.saver import BlackboardSaver
from agentsys.recording import ContextClosed
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.serving.requests import SamplingParams
from agentsys.testing import ScriptedModel
from agentsys.workflow import Workflow
from tests.serving.server.scripted import ScriptedEngine


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def script(prompt):
    if "Result of multiply: 42" in prompt:
        return "It is 42."
    return '{"name": "multiply", "arguments": {"a": 6, "b": 7}}'


def agent_graph(model):
    """The tool-calling agent of LangGraph's quick start."""
    bound = EmbeddedChatModel(model).bind_tools([multiply])

    async def call_model(state: MessagesState):
        return {"messages": [await bound.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", call_model)
    graph.add_node("tools", ToolNode([multiply]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition)
    graph.add_edge("tools", "agent")
    return graph


QUESTION = {"messages": [{"role": "user", "content": "What is 6 times 7?"}]}


async def test_it_runs_as_a_workflow_and_replays_without_the_model():
    with Board.open(":memory:") as board:
        model = ScriptedModel(script)
        workflow = Workflow("agent", agent_graph(model), output="messages")
        runtime = Runtime(board, model, workflows=[workflow])
        result = await runtime.run("agent", QUESTION)
        assert result.value[-1]["content"] == "It is 42."
        assert EXTERNAL in result.label.influencers, "the tool passed no gateway"
        asked = len(model.requests)
        assert asked == 2
        assert len([step for step in board.log(run=result.run) if "step" in {w.type for w in step.writes}]) >= asked
        report = await runtime.replay(result.run)
        assert (report.identical, len(model.requests)) == (True, asked)


async def test_it_runs_alone_with_checkpoints_on_the_board():
    with Board.open(":memory:") as board:
        compiled = agent_graph(ScriptedModel(script)).compile(checkpointer=BlackboardSaver(board))
        thread = {"configurable": {"thread_id": "a/b"}}
        state = await compiled.ainvoke(QUESTION, thread)
        assert state["messages"][-1].content == "It is 42."
        assert (await compiled.aget_state(thread)).values["messages"][-1].content == "It is 42."
        assert len([found async for found in compiled.aget_state_history(thread)]) >= 4


async def test_an_edge_that_asks_the_model_is_refused():
    chat = EmbeddedChatModel(ScriptedModel(script))

    async def edge(state):
        await chat.ainvoke("secretly")
        return "__end__"

    graph = agent_graph(ScriptedModel(script))
    del graph.branches["agent"]
    graph.add_conditional_edges("agent", edge, ["__end__"])
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(script))
        result = await runtime.run(Workflow("agent", graph), QUESTION)
        assert result.failure is not None and result.failure.code == ContextClosed.code


async def test_chat_streams_and_answers_without_a_run():
    chat = EmbeddedChatModel(ScriptedModel(lambda prompt: "hello"))
    assert "".join([piece.content async for piece in chat.astream("hi")]) == "hello"
    assert chat.invoke([HumanMessage("hi")]).content == "hello"


async def test_chat_is_sampled_as_a_call_wants_it():
    model = ScriptedModel(lambda prompt: "hello")
    chat = EmbeddedChatModel(model, max_tokens=9, temperature=0.5)
    await chat.ainvoke("hi", stop=["x"])
    await chat.bind(max_tokens=3, temperature=0.0, seed=4).ainvoke("hi")
    [piece async for piece in chat.astream("hi", top_p=0.5, presence_penalty=0.5, frequency_penalty=1.0)]
    assert [request.sampling for request in model.requests] == [
        SamplingParams(9, 0.5, stop=("x",)),
        SamplingParams(3, 0.0, seed=4),
        SamplingParams(9, 0.5, 0.5, presence_penalty=0.5, frequency_penalty=1.0),
    ]


def test_a_batch_asked_from_threads_waits_for_the_model_to_be_loaded():
    gate = threading.Event()

    def load():
        gate.wait(20)
        return ScriptedEngine()

    client = ServingClient({"m": load}, "m")
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(EmbeddedChatModel(client).batch, ["a", "b", "c"])
        while client.residents()[0].open < 3 and not asking.done():
            time.sleep(0.01)
        gate.set()
        assert [answer.content for answer in asking.result(20)] == ["a€z"] * 3
    asyncio.run(client.close())
