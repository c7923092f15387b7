"""Runs over steps of the clock by hours: in the order in which they began, ended and replayed as ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentsys.agents import Request, agent
from agentsys.blackboard.board import Board
from agentsys.cli.recorded import recorded_run
from agentsys.cli.run_source import LATEST
from agentsys.context import Context
from agentsys.runs import RunRecord, list_runs
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.views.run_index import run_index
from agentsys.workers import Worker

HOUR = 3600.0
STEPS = (0.0, -3 * HOUR, 30 * HOUR, -50 * HOUR)
Set = Callable[[float], None]


@pytest.fixture
def step_clock(monkeypatch: pytest.MonkeyPatch) -> Set:
    real = time.time

    def step(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return step


async def double(context: Context, number: int) -> int:
    return number * 2


@pytest.fixture
async def enqueued(tmp_path: Path, step_clock: Set) -> Path:
    """A board with a run for each step of the clock, none of which has been executed."""
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(str), workflows=[double])
        for number, seconds in enumerate(STEPS):
            step_clock(seconds)
            await runtime.enqueue("double", number, run_id=f"r{number}")
    return tmp_path / "board.db"


async def test_runs_are_in_the_order_in_which_they_began(enqueued: Path) -> None:
    expected = [f"r{number}" for number in range(len(STEPS))]
    assert recorded_run(enqueued, LATEST).run == expected[-1]
    with Board.open(enqueued) as board:
        assert [record.run for record in list_runs(board)] == expected
        assert [record.run for record in run_index(board).records(board)] == expected
        taken: list[str] = []
        supervisor = RunSupervisor(Runtime(board, ScriptedModel(str), workflows=[double]))
        await Worker(supervisor, most=1, told=lambda record: taken.append(record.run)).drain()
        assert taken == expected
        assert [record.value for record in list_runs(board)] == [0, 2, 4, 6]


async def test_an_order_by_the_clock_is_caught(enqueued: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunRecord, "order", property(lambda record: record.started))
    with Board.open_read_only(enqueued) as board:
        assert [record.run for record in list_runs(board)] != [f"r{number}" for number in range(len(STEPS))]


@pytest.mark.parametrize("seconds", [30 * HOUR, -30 * HOUR])
async def test_a_run_goes_on_over_a_step_and_replays(tmp_path: Path, step_clock: Set, seconds: float) -> None:
    stepped = asyncio.Event()

    @agent(kind="work")
    async def worker(context: Context, request: Request) -> Any:
        said = (await context.generate("why")).value
        await stepped.wait()
        return [said, await context.now() > 0]

    async def main(context: Context, value: Any) -> Any:
        outcome = await context.ask("work", value, timeout=60)
        return [response.value for response in outcome.answers]

    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(lambda prompt: f"<{prompt}>"), agents=[worker], workflows=[main])
        running = asyncio.create_task(runtime.run("main", 1, run_id="r", deadline=120))
        while not any(entry.type == "step" for commit in board.log(run="r") for entry in commit.writes):
            await asyncio.sleep(0.01)
        step_clock(seconds)
        stepped.set()
        result = await running
        assert result.value == [["<why>", True]]
        assert (await runtime.replay("r")).identical
        assert board.verify() == board.head
