from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentsys.agents import Bid, FunctionAgent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.runs import RunResult
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool
from agentsys.ui import connection
from agentsys.workflow import Workflow


@tool(effect=EffectClass.PURE)
def double(number: int) -> int:
    return 2 * number


def forget_the_client() -> None:
    """Close the console's connection to a server that ends with its test."""
    connection.connect().close()
    connection._client.cache_clear()


async def eager(context: Any, request: Any) -> Any:
    return (await context.call("double", number=request.value)).value


async def crashing(context: Any, request: Any) -> Any:
    raise RuntimeError("out of paper")


async def question(context: Any, value: Any) -> Any:
    """Answer in the shape of ``agentsys ask``: the plan comes from the model, the number from the best bidder."""
    outcome = await context.ask("number", value["number"])
    plan = await context.generate(f"Plan for {value['question']}")
    return {
        "answer": outcome.answers[0].value,
        "plan": plan.value,
        "columns": ["count"],
        "rows": [[outcome.answers[0].value]],
        "sources": [{"family": "airports", "files": ["airports.csv"], "columns": ["state", "name"]}],
    }


async def fails(context: Any, value: Any) -> Any:
    raise ValueError("nothing to divide")


@dataclass
class RecordedBoard:
    """A board in a file with runs on it, still open for writing."""

    path: Path
    board: Board
    run: Callable[..., RunResult]
    runtime: Runtime


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "board.db"


@pytest.fixture
def recorded(path: Path) -> Iterator[RecordedBoard]:
    board = Board.open(path, durability="normal")
    agents = [
        FunctionAgent(eager, "eager", frozenset({"number"}), lambda request: Bid("eager", 0.9, "doubles numbers")),
        FunctionAgent(crashing, "crashing", frozenset({"number"}), lambda request: Bid("crashing", 0.4, "tries")),
    ]
    workflows = [Workflow("question", question), Workflow("fails", fails)]
    model = ScriptedModel(lambda prompt: "SELECT 2 * 21")
    runtime = Runtime(board, model, agents=agents, tools=[double], workflows=workflows)

    def run(workflow: str, value: Any, **more: Any) -> RunResult:
        return asyncio.run(runtime.run(workflow, value, **more))

    yield RecordedBoard(path, board, run, runtime)
    board.close()
