"""What a person's word makes of a tool call in doubt."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectRefused, EffectState
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.runtime import Runtime
from agentsys.settling import UnknownEffect, settled_by
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import EffectInDoubt
from agentsys.tools import Tool, tool

made: list[str] = []
dying: list[bool] = []


class Killed(BaseException):
    """Stands for the end of the process."""


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
async def launch(name: str, idempotency_key: str) -> str:
    made.append(idempotency_key)
    if made.count(idempotency_key) == 1 and dying:
        raise Killed
    return f"{name} is up"


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
async def fuel(name: str) -> str:
    made.append("fuel")
    return name


async def mission(context: Context, name: str) -> Any:
    await context.call("fuel", name=name)
    return (await context.call("launch", name=name)).value


TOOLS: list[Tool] = [fuel, launch]


def runtime_on(board: Board) -> Runtime:
    return Runtime(board, ScriptedModel(str), tools=TOOLS, workflows=[mission])


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """A board whose run was killed in the middle of a launch."""
    made.clear()
    dying[:] = [True]
    path = tmp_path / "board.db"
    with Board.open(path) as board, pytest.raises(Killed):
        await runtime_on(board).run(mission, "ann", run_id="r")
    dying.clear()
    return path


async def test_what_never_happened_is_made_again_in_the_resumed_run(killed: Path) -> None:
    with Board.open(killed) as board:
        runtime, (effect,) = runtime_on(board), board.effects(state="started")
        settled = await runtime.settle(effect.id, "redo", note="the pad is full")
        assert settled.state is EffectState.FAILED
        told = settled_by(settled)
        assert told is not None
        assert (told["by"], told["note"]) == (OWNER, "the pad is full")
        assert board.log()[-1].principal == OWNER
        result = await runtime.resume("r")
        assert result.value == "ann is up"
        assert made == ["fuel", effect.id, effect.id], "under one idempotency key"
        again = board.effect(effect.id)
        assert again is not None
        assert (again.state, again.attempt) == (EffectState.SUCCEEDED, 2)
        assert (await runtime.replay("r")).identical


async def test_a_failed_run_goes_on_in_a_fork_from_where_the_doubt_arose(killed: Path) -> None:
    with Board.open(killed) as board:
        runtime = runtime_on(board)
        failed = await runtime.resume("r")
        assert failed.failure is not None
        assert failed.failure.code == "AGS-0631"
        (effect,) = board.effects(state="in_doubt")
        before = list(made)
        await runtime.settle(effect.id, "redo")
        fork = await runtime.fork("r", at=effect.seq)
        assert fork.value == "ann is up"
        assert "fuel" not in made[len(before) :], "what was done before the doubt is not done again"


@pytest.mark.parametrize(("outcome", "status", "value"), [("succeeded", "done", "by hand"), ("failed", "failed", None)])
async def test_a_word_on_the_outcome_is_the_outcome(killed: Path, outcome: Any, status: str, value: object) -> None:
    with Board.open(killed) as board:
        runtime, (effect,) = runtime_on(board), board.effects(state="started")
        await runtime.settle(effect.id, outcome, value)
        made.clear()
        result = await runtime.resume("r")
        assert (result.status, result.record.value) == (status, value)
        assert made == []
        with pytest.raises(EffectRefused):
            await runtime.settle(effect.id, "redo")


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM, timeout=0.05)
async def hang(name: str) -> None:
    await asyncio.sleep(3600)


async def patient(context: Context, name: str) -> Any:
    try:
        await context.call("hang", name=name)
    except EffectInDoubt:
        answer = (await context.ask_person("it hung: what now?")).value
        return (await context.generate(answer)).value
    return (await context.generate("all is well")).value


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "redo"])
async def test_a_run_that_was_told_of_the_doubt_and_went_on_keeps_to_that(tmp_path: Path, outcome: Any) -> None:
    def opened(board: Board) -> Runtime:
        return Runtime(board, ScriptedModel(str), tools=[hang], workflows=[patient])

    with Board.open(tmp_path / "board.db") as board:
        runtime = opened(board)
        running = asyncio.create_task(runtime.run(patient, "ann", run_id="r"))
        while not runtime.approvals("pending"):
            assert not running.done()
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    with Board.open(tmp_path / "board.db") as board:
        runtime, (effect,) = opened(board), board.effects(state="in_doubt")
        await runtime.settle(effect.id, outcome)
        await runtime.decide(runtime.approvals("pending")[0].id, "approve", answer="go on")
        assert (await runtime.resume("r")).value == "go on"
        assert (await runtime.replay("r")).identical
        if outcome == "succeeded":
            assert (await runtime.fork("r", at=effect.seq)).value == "all is well"


async def test_a_failed_run_is_replayed_as_it_was_before_its_call_was_settled(killed: Path) -> None:
    with Board.open(killed) as board:
        runtime = runtime_on(board)
        assert (await runtime.resume("r")).status == "failed"
        (effect,) = board.effects(state="in_doubt")
        await runtime.settle(effect.id, "succeeded", "ann is up")
        assert (await runtime.replay("r")).identical


async def test_what_cannot_be_settled_is_refused(killed: Path) -> None:
    with Board.open(killed) as board:
        runtime = runtime_on(board)
        with pytest.raises(UnknownEffect):
            await runtime.settle("no such", "failed")
        with pytest.raises(ConfigurationError):
            await runtime.settle(board.effects()[0].id, "perhaps")  # type: ignore[arg-type]
        (done,) = (effect for effect in board.effects() if effect.state is EffectState.SUCCEEDED)
        with pytest.raises(EffectRefused):
            await runtime.settle(done.id, "failed")
