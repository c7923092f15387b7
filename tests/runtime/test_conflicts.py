"""What becomes of an actor whose commit conflicts: judged again, done again, made one, or given an exclusive turn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentsys import actors
from agentsys.actors import MAX_ATTEMPTS
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, Label, Readers
from agentsys.blackboard.merges import Add
from agentsys.blackboard.predicates import Predicate
from agentsys.leases import LeaseLost, give_back
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool


@pytest.fixture
def board() -> Any:
    with Board.open(":memory:") as opened:
        yield opened


STRANGER = Label(frozenset({"web"}), Readers.of(OWNER))


def write(board: Board, value: Any, key: str = "n", label: Label | None = None) -> None:
    tx = board.begin(OWNER)
    tx.put("notes", key, value, type="note", label=label)
    board.commit(tx)


def runtime(board: Board, **arguments: Any) -> Runtime:
    return Runtime(board, ScriptedModel(str), policy=Policy.of(), **arguments)


class Meddled:
    """A workflow that finds its note changed by somebody else in its first attempts."""

    def __init__(self, board: Board, times: int) -> None:
        self.board, self.times, self.told = board, times, list[Any]()

    async def __call__(self, context: Any, text: Any) -> Any:
        entry = context.read("notes", "n")
        self.told.append([change["new"] for change in context.actor.changes])
        if context.actor.attempt <= self.times and len(self.told) <= self.times:
            write(self.board, {"theirs": len(self.told)})
        context.put("notes", "n", {**(entry.value if entry else {}), "mine": 1}, type="note")
        return context.actor.attempt


async def test_told_not_told_and_made_one(board: Board):
    told = Meddled(board, 1)
    assert (await runtime(board).run(told, run_id="repair")).value == 2
    assert told.told == [[], [{"theirs": 1}]]
    untold = Meddled(board, 1)
    assert (await runtime(board, conflicts={"note": "retry"}).run(untold, run_id="retry")).value == 2
    assert untold.told == [[], []]

    def union(base: Any, mine: Any, theirs: Any) -> Any:
        return {**theirs, **mine}

    write(board, {})
    once = Meddled(board, 1)
    merging = runtime(board, conflicts={"note": union})
    result = await merging.run(once, run_id="merge")
    assert result.value == 1 and len(once.told) == 1
    entry = board.get("notes", "n")
    assert entry is not None and entry.value == {"theirs": 1, "mine": 1}
    assert (await merging.replay("merge", once)).identical


async def test_an_exclusive_turn_on_the_second_loss(board: Board):
    losing = Meddled(board, 2)

    async def work(context: Any, text: Any) -> Any:
        if context.actor.attempt == 3:
            assert context.actor.owner is not None
            late = board.begin("meddler")
            late.put("notes", "n", {"late": True}, type="note")
            waiting.append(board.submit(late))
        return await losing(context, text)

    waiting: list[Any] = []
    result = await runtime(board, conflicts={"note": "escalate"}).run(work, run_id="r")
    assert result.value == 3
    assert waiting[0].result(timeout=5).seq > result.record.first_seq
    entry = board.get("notes", "n")
    assert entry is not None and entry.value == {"late": True}, "the meddler's write waited, and came after"


@pytest.mark.parametrize("interrupted", [False, True])
async def test_who_fails_in_its_exclusive_turn_ends_it(
    board: Board, monkeypatch: pytest.MonkeyPatch, interrupted: bool
):
    monkeypatch.setattr(actors, "HOLD_SECONDS", 50.0)
    losing = Meddled(board, 2)

    async def work(context: Any, text: Any) -> Any:
        await losing(context, text)
        if context.actor.owner is not None:
            if interrupted:
                running.cancel()
                await asyncio.sleep(0)
            raise LookupError("failed in its turn")

    running = asyncio.create_task(runtime(board, conflicts={"note": "escalate"}).run(work, run_id="r"))
    # What it held was also what its own run writes in the end.
    async with asyncio.timeout(20):
        await asyncio.wait([running])
    assert running.cancelled() if interrupted else running.result().failure is not None
    waiting = board.begin(OWNER)
    waiting.put("notes", "n", 2, type="note")
    assert board.submit(waiting).result(timeout=20).writes


async def test_counters_of_agents_do_not_conflict(board: Board):
    async def count(context: Any, text: Any) -> Any:
        inner = board.begin("somebody")
        inner.merge("notes", "visits", Add(1), type="counter")
        board.commit(inner)
        context.merge("notes", "visits", Add(1), type="counter")
        return context.actor.attempt

    counting = runtime(board)
    assert (await counting.run(count, run_id="r")).value == 1
    entry = board.get("notes", "visits")
    assert entry is not None and entry.value == 2
    assert (await counting.replay("r", count)).identical


async def test_who_lost_the_run_after_a_conflict_says_so(board: Board):
    class Losing(dict[str, Any]):
        def get(self, kind: str, default: Any = None) -> Any:
            lost = board.begin("another process")
            give_back("r", lost)
            board.commit(lost)
            return default

    with pytest.raises(LeaseLost):
        await runtime(board, conflicts=Losing(other="retry")).run(Meddled(board, 1), run_id="r")


async def test_an_exclusive_turn_for_who_loses_where_it_asks_others(board: Board):
    losing = Meddled(board, 2)
    owners: list[Any] = []

    async def work(context: Any, text: Any) -> Any:
        await losing(context, text)
        owners.append(context.actor.owner)
        await context.ask("anything")
        return context.actor.attempt

    result = await runtime(board, conflicts={"note": "escalate"}).run(work, run_id="r")
    assert result.value == 3
    assert [owner is not None for owner in owners] == [False, False, True]


@pytest.mark.parametrize("label", [None, STRANGER])
async def test_a_call_that_had_not_begun_before_the_conflict_is_decided_anew_and_made_once(
    board: Board, label: Label | None
):
    made: list[int] = []

    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
    async def pay(amount: int) -> None:
        made.append(amount)

    async def work(context: Any, text: Any) -> Any:
        if context.actor.attempt == 1:
            paying = asyncio.create_task(context.call("pay", amount=1))
            while not board.effects("r"):
                await asyncio.sleep(0)
            # While its commit is under way.
            paying.cancel()
            await asyncio.wait([paying])
        context.read("notes", "n")
        if context.actor.attempt == 1:
            write(board, "pay", label=label)
        else:
            await context.call("pay", amount=1)
        context.put("mine", "n", 1, type="note")

    result = await runtime(board, tools=[pay]).run(work, run_id="r")
    if label is None:
        assert result.failure is None and made == [1]
    else:
        assert result.failure is not None and result.failure.type == "PolicyDenied" and made == []
    assert [effect.state for effect in board.effects("r")] == ["succeeded" if made else "intended"]
    assert (await runtime(board, tools=[pay]).replay("r", work)).identical
    assert (await runtime(board, tools=[pay]).audit("r")).identical


@pytest.mark.parametrize("label", [None, STRANGER])
async def test_a_word_on_a_call_does_not_hold_once_others_shaped_who_makes_it(board: Board, label: Label | None):
    made: list[int] = []

    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
    async def pay(amount: int) -> None:
        made.append(amount)

    async def work(context: Any, text: Any) -> Any:
        context.read("notes", "n")
        paying = asyncio.create_task(context.call("pay", amount=1))
        if context.actor.attempt == 1:
            while not careful.approvals("pending"):
                await asyncio.sleep(0.01)
            paying.cancel()
            write(board, "pay", label=label)
            context.put("mine", "n", 1, type="note")
            return
        await paying

    policy = Policy.of(asks=["pay"])
    careful = Runtime(board, ScriptedModel(str), tools=[pay], policy=policy)
    running = asyncio.create_task(careful.run(work, run_id="r"))
    while board.get("runs/r/steps", "main#2") is None:
        await asyncio.sleep(0.01)
    (asked,) = careful.approvals("pending")
    await careful.decide(asked.id, "approve")
    result = await running
    if label is None:
        assert result.failure is None and made == [1]
    else:
        assert result.failure is not None and result.failure.code == "AGS-0310" and made == []
    assert (await careful.replay("r", work)).identical
    assert (await careful.audit("r")).identical


async def test_a_failure_that_tells_of_what_others_wrote_has_their_label(board: Board):
    async def always(context: Any, text: Any) -> None:
        context.query(Predicate(topic="notes", equals={"x": 7}))
        last = context.actor.attempt == MAX_ATTEMPTS
        write(board, {"x": 7}, *(("pay me", STRANGER) if last else ("theirs",)))
        context.put("mine", "n", 1, type="note")

    failed = await runtime(board, conflicts={"note": "retry"}).run(always, run_id="retry")
    assert failed.failure is not None and "pay me" in failed.failure.message
    assert "web" in failed.label.influencers

    def broken(base: Any, mine: Any, theirs: Any) -> Any:
        raise LookupError(f"cannot make one of {theirs}")

    async def once(context: Any, text: Any) -> None:
        context.read("notes", "n")
        write(board, "pay me", label=STRANGER)
        context.put("notes", "n", 1, type="note")

    failed = await runtime(board, conflicts={"note": broken}).run(once, run_id="merge")
    assert failed.failure is not None and "pay me" in failed.failure.message
    assert "web" in failed.label.influencers
