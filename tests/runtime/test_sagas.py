"""Sagas: what was done is taken back newest first, once, across restarts, and what cannot be is said."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.labels import NOBODY, Label
from agentsys.errors import ConfigurationError
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import EffectInDoubt, ToolFailed
from agentsys.tools import EffectClass, Tool, tool


class Hotel:
    """Rooms outside; ``stuck`` ones cannot be given back."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.stuck: set[str] = set()
        self.pause: asyncio.Event | None = None

    def tool(self) -> Tool:
        async def give_back(room: str, result: str, idempotency_key: str) -> None:
            if self.pause is not None:
                await self.pause.wait()
            if room in self.stuck:
                raise ValueError(f"{room} is stuck")
            self.log.append(f"back {room} {result}")

        @tool(effect=EffectClass.COMPENSABLE, audience=NOBODY, source=Label.trusted(), undo=give_back)
        def reserve(room: str, nights: int) -> str:
            if room == "full":
                raise ValueError("no room")
            self.log.append(f"reserved {room}")
            return f"no. {len(self.log)}"

        return reserve


async def trip(context: Any, rooms: Any) -> Any:
    async with context.saga():
        for room in rooms:
            await context.call("reserve", room=room, nights=2)
    return "booked"


@pytest.fixture
def hotel() -> Hotel:
    return Hotel()


def runtime_on(board: Board, hotel: Hotel, workflow: Any = trip) -> Runtime:
    return Runtime(board, ScriptedModel(str), tools=[hotel.tool()], workflows=[workflow], policy=Policy.of())


async def test_all_or_nothing(hotel: Hotel):
    with Board.open(":memory:") as board:
        runtime = runtime_on(board, hotel)
        assert (await runtime.run("trip", ["a", "b"])).value == "booked"
        assert hotel.log == ["reserved a", "reserved b"]
        hotel.log.clear()
        failed = await runtime.run("trip", ["a", "b", "full"])
        assert failed.failure is not None and "no room" in failed.failure.message
        assert hotel.log == ["reserved a", "reserved b", "back b no. 2", "back a no. 1"], "newest first"
        states = {
            effect.intent.tool + str(effect.intent.arguments): effect.state for effect in board.effects(failed.run)
        }
        assert list(states.values()).count(EffectState.COMPENSATED) == 2
        assert (await runtime.replay(failed.run)).identical
        assert len(hotel.log) == 4


async def test_what_cannot_be_taken_back_is_said_and_the_rest_is(hotel: Hotel):
    notes: list[list[str]] = []

    async def trip(context: Any, rooms: Any) -> Any:
        try:
            async with context.saga():
                for room in rooms:
                    await context.call("reserve", room=room, nights=1)
        except ToolFailed as error:
            notes.append(list(getattr(error, "__notes__", [])))
            raise

    hotel.stuck = {"b"}
    with Board.open(":memory:") as board:
        result = await runtime_on(board, hotel, trip).run("trip", ["a", "b", "full"])
        assert result.status == "failed" and "b is stuck" in notes[0][0]
        assert hotel.log[-1] == "back a no. 1"
        states = [effect.state for effect in board.effects(result.run) if effect.intent.tool == "reserve"]
        assert sorted(states) == ["compensated", "failed", "succeeded"]


async def test_what_the_undoing_cannot_be_given_keeps_no_other_call(hotel: Hotel):
    """The reservation whose answer was lost has no number, without which it cannot be given back."""

    async def give_back(room: str, result: str) -> None:
        raise AssertionError("nobody knows the result")

    @tool(effect=EffectClass.COMPENSABLE, audience=NOBODY, source=Label.trusted(), undo=give_back, timeout=0.001)
    async def request(room: str) -> str:
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    notes: list[str] = []

    async def asks(context: Any, _: Any) -> None:
        try:
            async with context.saga():
                await context.call("reserve", room="a", nights=2)
                await context.call("request", room="b")
        except EffectInDoubt as error:
            notes.append(error.__notes__[0])
            raise

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[hotel.tool(), request], workflows=[asks])
        result = await runtime.run("asks")
        assert result.failure is not None and result.failure.type == "EffectInDoubt"
        assert hotel.log == ["reserved a", "back a no. 1"]
        assert len(notes) == 1 and "result: Field required" in notes[0]
        assert (await runtime.replay(result.run)).identical and notes[0] == notes[1]


async def test_a_restart_in_the_middle_takes_each_back_once(tmp_path: Path, hotel: Hotel):
    path = tmp_path / "board.db"
    hotel.pause = asyncio.Event()
    with Board.open(path) as board:
        running = asyncio.create_task(runtime_on(board, hotel).run("trip", ["a", "b", "full"], run_id="r"))
        while not [effect for effect in board.effects("r") if effect.intent.tool == "undo_reserve"]:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    hotel.pause = None
    with Board.open(path) as board:
        runtime = runtime_on(board, hotel)
        result = await runtime.resume("r")
        assert result.status == "failed" and hotel.log[2:] == ["back b no. 2", "back a no. 1"]
        assert (await runtime.resume("r")).status == "failed" and len(hotel.log) == 4
        assert (await runtime.replay("r")).identical


async def test_an_inner_saga_that_ended_well_is_part_of_the_outer(hotel: Hotel):
    async def nested(context: Any, value: Any) -> Any:
        try:
            async with context.saga():
                await context.call("reserve", room="outer", nights=1)
                async with context.saga():
                    await context.call("reserve", room="inner", nights=1)
                raise LookupError("later")
        except LookupError:
            return "gone on"

    with Board.open(":memory:") as board:
        assert (await runtime_on(board, hotel, nested).run("nested")).value == "gone on"
        assert hotel.log == ["reserved outer", "reserved inner", "back inner no. 2", "back outer no. 1"]


async def test_sagas_that_are_under_way_at_once_take_back_their_own_calls(hotel: Hotel):
    async def both(context: Any, groups: Any) -> Any:
        async def book(rooms: list[str]) -> str:
            async with context.saga():
                for room in rooms:
                    await context.call("reserve", room=room, nights=1)
            return "booked"

        ended = await asyncio.gather(*(book(rooms) for rooms in groups), return_exceptions=True)
        return [end if isinstance(end, str) else type(end).__name__ for end in ended]

    with Board.open(":memory:") as board:
        result = await runtime_on(board, hotel, both).run("both", [["a", "full"], ["b"]])
        assert result.value == ["ToolFailed", "booked"]
        assert [line.split()[:2] for line in hotel.log if line.startswith("back")] == [["back", "a"]]


async def test_a_call_that_is_under_way_when_another_fails_is_taken_back_once_it_was_made():
    log: list[str] = []

    async def give_back(room: str) -> None:
        log.append(f"back {room}")

    @tool(effect=EffectClass.COMPENSABLE, audience=NOBODY, source=Label.trusted(), undo=give_back)
    async def reserve(room: str) -> None:
        if room == "full":
            raise ValueError("no room")
        await asyncio.sleep(0.2)
        log.append(f"reserved {room}")

    async def both(context: Any, value: Any) -> Any:
        async with context.saga():
            await asyncio.gather(context.call("reserve", room="slow"), context.call("reserve", room="full"))

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[reserve], workflows=[both], policy=Policy.of())
        result = await runtime.run("both")
        assert (result.status, log) == ("failed", ["reserved slow", "back slow"])
        assert (await runtime.replay(result.run)).identical


async def test_calls_made_at_once_are_taken_back_in_the_order_in_which_they_were_begun(hotel: Hotel):
    async def both(context: Any, value: Any) -> Any:
        async with context.saga():
            await asyncio.gather(*(context.call("reserve", room=room, nights=1) for room in "ab"))
            raise LookupError("later")

    def slow_for_a(tool: str, arguments: Any, label: Label) -> None:
        if arguments["room"] == "a":
            time.sleep(0.2)

    with Board.open(":memory:") as board:
        policy = Policy(checks=(slow_for_a,))
        runtime = Runtime(board, ScriptedModel(str), tools=[hotel.tool()], workflows=[both], policy=policy)
        result = await runtime.run("both")
        assert hotel.log == ["reserved b", "reserved a", "back b no. 1", "back a no. 2"]
        assert (await runtime.replay(result.run)).identical, "where nothing is slow"


async def test_no_saga_takes_nothing_back(hotel: Hotel):
    async def plain(context: Any, value: Any) -> Any:
        await context.call("reserve", room="a", nights=1)
        raise LookupError("later")

    with Board.open(":memory:") as board:
        await runtime_on(board, hotel, plain).run("plain")
        assert hotel.log == ["reserved a"]


def test_compensable_means_that_there_is_an_undo():
    with pytest.raises(ConfigurationError, match="undo"):
        tool(effect=EffectClass.COMPENSABLE)
    with pytest.raises(ConfigurationError, match="undo"):
        tool(effect=EffectClass.IRREVERSIBLE, undo=print)


async def test_a_fork_after_a_saga_that_failed_goes_on_from_there(hotel: Hotel):
    async def lenient(context: Any, rooms: Any) -> Any:
        try:
            async with context.saga():
                for room in rooms:
                    await context.call("reserve", room=room, nights=2)
        except ToolFailed:
            return (await context.generate("sorry")).value
        return "booked"

    with Board.open(":memory:") as board:
        runtime = runtime_on(board, hotel, lenient)
        assert (await runtime.run("lenient", ["a", "full"], run_id="r")).value == "sorry"
        fork = await runtime.fork("r", at=board.head)
        assert (fork.value, hotel.log) == ("sorry", ["reserved a", "back a no. 1"])
        before = next(
            effect for effect in board.effects("r") if effect.intent.arguments == {"room": "full", "nights": 2}
        )
        again = await runtime.fork("r", at=before.seq)
        assert again.value == "sorry"
        assert hotel.log[2:] == ["reserved a", "back a no. 3"], "what was taken back later is done anew"
