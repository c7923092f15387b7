"""A LangGraph agent in a process of its own, for the tests that kill it: BOARD LOG ACTION.

Every node and tool writes its name to LOG as it begins. Where WAIT_IN names one, it then waits to be killed.
"""

import asyncio
import os
import sys
from pathlib import Path

from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from agentsys.blackboard.board import Board
from agentsys.chat_model import EmbeddedChatModel
from agentsys.langgraph.saver import BlackboardSaver
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.serving.models import EngineOptions, engine_factory
from agentsys.serving.weights.catalogue import DEFAULT_MODEL
from agentsys.testing import ScriptedModel
from agentsys.workflow import Workflow

BOARD, LOG, ACTION = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
QUESTION = {"messages": [{"role": "user", "content": "What is 6 times 7? Use the tool."}]}
THREAD = {"configurable": {"thread_id": "crash"}}


async def begin(place):
    with LOG.open("a") as log:
        log.write(f"{place}\n")
    if os.environ.get("WAIT_IN") == place:
        await asyncio.sleep(600)


@tool
async def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    await begin("multiply")
    return a * b


def agent_graph(chat):
    """An agent that calls a tool once and then says something."""
    calling = chat.bind_tools([multiply], tool_choice="multiply")

    async def agent(state: MessagesState):
        await begin("agent")
        model = chat if state["messages"][-1].type == "tool" else calling
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode([multiply]))
    graph.add_edge(START, "agent")
    graph.add_edge("tools", "agent")
    return graph


def reviewed_graph(chat):
    """The agent, whose answer a person reviews before it is published."""

    async def review(state: MessagesState):
        await begin("review")
        return Command(goto="publish" if interrupt(state["messages"][-1].content) == "approve" else END)

    async def publish(state: MessagesState):
        await begin("publish")
        return {"messages": [("ai", f"Published: {state['messages'][-1].content}")]}

    graph = agent_graph(chat)
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", "__end__": "review"})
    graph.add_node("review", review, destinations=("publish", END))
    graph.add_node("publish", publish)
    graph.add_edge("publish", END)
    return graph


async def checkpointed(start):
    client = ServingClient({DEFAULT_MODEL: engine_factory(DEFAULT_MODEL, EngineOptions())}, DEFAULT_MODEL)
    with Board.open(BOARD) as board:
        graph = reviewed_graph(EmbeddedChatModel(client, max_tokens=32)).compile(checkpointer=BlackboardSaver(board))
        state = await graph.ainvoke(start, THREAD, durability="sync")
        if "__interrupt__" in state:
            print("INTERRUPT", state["__interrupt__"][0].value)
            await begin("interrupted")
        else:
            print("DONE", [message.type for message in state["messages"]], state["messages"][-1].content)
    await client.close()


async def answer(runtime, word):
    """Answer the interrupt once the run asks; without a word, wait there to be killed."""
    while not (pending := runtime.approvals("pending")):
        await asyncio.sleep(0.05)
    await begin("asked")
    if word is not None:
        await runtime.decide(pending[0].id, "approve", answer=word)


def script(prompt):
    with LOG.open("a") as log:
        log.write("model\n")
    return "It is 42." if "42" in prompt else '{"name": "multiply", "arguments": {"a": 6, "b": 7}}'


async def on_the_runtime(resume, word=None):
    model = ScriptedModel(script)
    graph = reviewed_graph(EmbeddedChatModel(model))
    with Board.open(BOARD) as board:
        runtime = Runtime(board, model, workflows=[Workflow("agent", graph, output="messages")])
        answering = asyncio.create_task(answer(runtime, word))
        result = await (runtime.resume("crash") if resume else runtime.run("agent", QUESTION, run_id="crash"))
        await answering
        assert result.failure is None, result.failure
        print("DONE", result.value[-1]["content"])


ACTIONS = {
    "start": lambda: checkpointed(QUESTION),
    "continue": lambda: checkpointed(None),
    "approve": lambda: checkpointed(Command(resume="approve")),
    "run": lambda: on_the_runtime(False),
    "continued": lambda: on_the_runtime(True),
    "resume": lambda: on_the_runtime(True, "approve"),
}
asyncio.run(ACTIONS[ACTION]())
