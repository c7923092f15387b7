"""A whole LangGraph graph over a checkpoint saver: supersteps a second, LangGraph's own work included.

The graph is one node in a loop; each superstep adds a message to a list beside channels that do not change. Over
:data:`MEMORY`, which stores nothing, it takes what LangGraph takes for itself, and no saver spares.
"""

from __future__ import annotations

import operator
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, TypedDict

from agentsys.benchmarks.board_savers import Arm, Saver

WORDS: Final = ("board", "commit", "label", "run", "agent", "plan", "file", "column", "answer", "query", "bid", "round")
MESSAGE_WORDS: Final = 40


class _State(TypedDict):
    messages: Annotated[list[dict[str, str]], operator.add]
    plan: str
    round: int


def message(words: random.Random, name: str) -> dict[str, str]:
    """Return an agent's message of :data:`MESSAGE_WORDS` words."""
    return {"role": "ai", "id": name, "content": " ".join(words.choices(WORDS, k=MESSAGE_WORDS))}


async def supersteps(saver: Saver, thread: str, steps: int) -> None:
    """Run the graph with ``durability="sync"`` for ``steps`` supersteps, and check that all of them counted."""
    from langgraph.graph import END, START, StateGraph

    words = random.Random(thread)

    async def step(state: _State) -> dict[str, Any]:
        return {"messages": [message(words, f"{thread}-{state['round']}")], "round": state["round"] + 1}

    graph = StateGraph(_State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["round"] < steps else END)
    compiled = graph.compile(checkpointer=saver)
    begun: _State = {"messages": [], "plan": "p" * 500, "round": 0}
    ended = await compiled.ainvoke(
        begun, {"configurable": {"thread_id": thread}, "recursion_limit": steps + 1}, durability="sync"
    )
    assert len(ended["messages"]) == steps


@asynccontextmanager
async def _in_memory(_: str) -> AsyncIterator[Saver]:
    from langgraph.checkpoint.memory import InMemorySaver

    yield InMemorySaver()


MEMORY: Final = Arm("InMemorySaver", _in_memory, lambda: "", lambda _: 0)
