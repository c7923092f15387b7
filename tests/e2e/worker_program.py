"""A worker that tests kill: ``python worker_program.py BOARD FOLDER [--enqueue | --drain]``.

``--enqueue`` puts the runs on record: half of them agents in rounds, half a LangGraph graph with parallel nodes. A
worker prints ``open`` once it has the board, and works once FOLDER has a file ``go``. Effects append a line to a file
of FOLDER, one for each run, as the service that is acted on would keep it. ``--no-leases`` is a planted fault, in which
every worker takes every run.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from agentsys.agents import Agent, Bid, Request, agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY
from agentsys.context import Context
from agentsys.current import current_context
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import Tool, tool
from agentsys.workers import Worker
from agentsys.workflow import Workflow

RUNS = 8
ROUNDS = 3
PAUSE = 0.05


def ledger_tools(folder: Path) -> list[Tool]:
    def note(run: str, line: list[Any]) -> None:
        with (folder / f"{run}.ledger").open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
            os.fsync(file.fileno())

    def known(key: str) -> bool:
        return any(key in path.read_text() for path in folder.glob("*.ledger"))

    @tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=BOTTOM)
    def pay(run: str, amount: int, idempotency_key: str) -> str:
        if not known(idempotency_key):
            note(run, ["pay", idempotency_key, amount])
        return f"paid {amount}"

    @tool(
        effect=EffectClass.QUERYABLE, audience=NOBODY, source=BOTTOM, query=lambda key: "sent" if known(key) else None
    )
    def send(run: str, text: str, idempotency_key: str) -> str:
        note(run, ["send", idempotency_key, text])
        return "sent"

    return [pay, send]


def counter(position: int) -> Agent:
    @agent(kind="count", name=f"counter{position}", volunteer=lambda r: Bid(f"counter{position}", 1 / (1 + position)))
    async def count(context: Context, request: Request) -> Any:
        await asyncio.sleep(PAUSE)
        said = (await context.generate(f"count {request.value} {position}")).value
        await context.call("pay", run=context.run, amount=request.value * 10 + position)
        context.put(f"counts/{context.run}", f"{request.value}-{position}", said, type="count")
        return [said, await context.uuid() != ""]

    return count


async def counting(context: Context, rounds: int) -> Any:
    answers = []
    for number in range(rounds):
        context.put(f"progress/{context.run}", "round", number, type="progress")
        outcome = await context.ask("count", number)
        answers.append([response.value for response in outcome.answers])
        await context.call("send", run=context.run, text=f"round {number} is over")
    return answers


class State(TypedDict):
    number: int
    said: Annotated[list[str], operator.add]


def graph() -> Workflow:
    async def step(name: str, state: State) -> dict[str, Any]:
        context = current_context.get()
        assert context is not None
        await asyncio.sleep(PAUSE)
        said = (await context.generate(f"{name} {state['number']}")).value
        await context.call("pay", run=context.run, amount=state["number"])
        return {"said": [said]}

    async def left(state: State) -> dict[str, Any]:
        return await step("left", state)

    async def right(state: State) -> dict[str, Any]:
        return await step("right", state)

    async def join(state: State) -> dict[str, Any]:
        return {"number": state["number"] + 1}

    built = StateGraph(State)
    for name, node in (("left", left), ("right", right), ("join", join)):
        built.add_node(name, node)
    for side in ("left", "right"):
        built.add_edge(START, side)
        built.add_edge(side, "join")
    built.add_conditional_edges("join", lambda s: ["left", "right"] if s["number"] < ROUNDS else END)
    return Workflow("graph", built.compile())


async def main(location: str, folder: Path, *, enqueue: bool, drain: bool) -> None:
    agents = [counter(position) for position in range(3)]
    with Board.open(location) as board:
        model = ScriptedModel(lambda prompt: f"<{prompt}>")
        workflows = [Workflow("counting", counting), graph()]
        runtime = Runtime(board, model, agents=agents, tools=ledger_tools(folder), workflows=workflows)
        print("open", flush=True)
        if enqueue:
            for number in range(RUNS // 2):
                await runtime.enqueue("counting", ROUNDS, run_id=f"agents{number}")
                await runtime.enqueue("graph", {"number": 0, "said": []}, run_id=f"graph{number}")
            return
        while not (folder / "go").exists():
            await asyncio.sleep(0.01)
        supervisor = RunSupervisor(runtime)
        worker = Worker(supervisor, most=3)
        await (worker.drain() if drain else worker.serve())
        assert not worker.broken, worker.broken


if __name__ == "__main__":
    if "--no-leases" in sys.argv:
        import agentsys.leases
        import agentsys.workers

        agentsys.leases.is_free = lambda board, lease: True
        agentsys.workers.is_free = lambda board, lease: True
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), enqueue="--enqueue" in sys.argv, drain="--drain" in sys.argv))
