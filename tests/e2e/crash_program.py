"""The program that the crash test kills: a run of several agents, rounds and tool calls, with a scripted model.

    python crash_program.py BOARD LEDGER [--journal-off]

starts run ``crash`` on the board file BOARD, or resumes it where it exists, and prints its value as JSON. The tools
with effects append a line to the file LEDGER, as an external service would keep it: tool, idempotency key, argument.
``--journal-off`` is a planted fault, in which no recorded step is ever found again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from agentsys.agents import Agent, Bid, Request, agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY
from agentsys.context import Context
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import Tool, tool

RUN = "crash"


def ledger_tools(ledger: Path) -> list[Tool]:
    def note(line: list[Any]) -> None:
        with ledger.open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
            os.fsync(file.fileno())

    def seen(key: str) -> bool:
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        return any(json.loads(line)[1] == key for line in lines)

    @tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=BOTTOM)
    def pay(amount: int, idempotency_key: str) -> str:
        # As the services that take idempotency keys do: a key that is known changes nothing.
        if not seen(idempotency_key):
            note(["pay", idempotency_key, amount])
        return f"paid {amount}"

    @tool(effect=EffectClass.QUERYABLE, audience=NOBODY, source=BOTTOM, query=lambda key: "sent" if seen(key) else None)
    def send(text: str, idempotency_key: str) -> str:
        note(["send", idempotency_key, text])
        return "sent"

    @tool(effect=EffectClass.PURE)
    def double(number: int) -> int:
        return number * 2

    return [pay, send, double]


def counting_agent(position: int) -> Agent:
    @agent(kind="count", name=f"counter{position}", volunteer=lambda r: Bid(f"counter{position}", 1 / (1 + position)))
    async def count(context: Context, request: Request) -> Any:
        doubled = (await context.call("double", number=request.value + position)).value
        said = (await context.generate(f"say {doubled}")).value
        context.put("counts", f"{request.value}-{position}", doubled, type="count")
        detail = await context.ask("detail", doubled)
        await context.call("pay", amount=doubled)
        return [said, detail.value, await context.uuid() != ""]

    return count


@agent(kind="detail")
async def detailer(context: Context, request: Request) -> Any:
    context.put("details", str(request.value), f"detail {request.value}", type="detail")
    return (await context.generate(f"detail of {request.value}")).value


async def workflow(context: Context, rounds: int) -> Any:
    answers = []
    for number in range(rounds):
        context.put("progress", "round", number, type="progress")
        outcome = await context.ask("count", number * 10)
        answers.append([response.value for response in outcome.answers])
        await context.call("send", text=f"round {number} is over")
    return answers


async def main(board_path: str, ledger: str) -> None:
    agents = [counting_agent(position) for position in range(3)] + [detailer]
    with Board.open(board_path) as board:
        model = ScriptedModel(lambda prompt: f"<{prompt}>")
        runtime = Runtime(board, model, agents=agents, tools=ledger_tools(Path(ledger)), workflows=[workflow])
        known = {record.run for record in runtime.runs()}
        print("open", flush=True)
        result = await (runtime.resume(RUN) if RUN in known else runtime.run("workflow", 3, run_id=RUN))
        print(json.dumps(result.value), flush=True)


if __name__ == "__main__":
    if "--journal-off" in sys.argv:
        from agentsys.journal import Journal

        Journal.get = lambda self, key: None  # type: ignore[method-assign]
    asyncio.run(main(sys.argv[1], sys.argv[2]))
