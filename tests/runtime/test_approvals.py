"""Approvals: asked on the board, decided once by a person, and no call without the word it needs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentsys import topics
from agentsys.agents import Bid, agent
from agentsys.approvals import AlreadyDecided, Approval, UnknownApproval
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.labels import NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.events import ApprovalDecided, ApprovalRequested
from agentsys.gateway import PolicyDenied
from agentsys.policy.policy import Policy
from agentsys.runs import RunRecord
from agentsys.runtime import MAX_ACTING, Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool
from agentsys.workflow import Workflow

STRANGER = Label(frozenset({"web:example.org"}), PUBLIC)


class Outside:
    """What the tool of these tests changes."""

    def __init__(self) -> None:
        self.sent: list[str] = []

        @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
        def send(text: str) -> int:
            self.sent.append(text)
            return len(self.sent)

        self.tool = send


async def forward(context: Any, text: Any) -> Any:
    return (await context.call("send", text=text)).value


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def board() -> Any:
    with Board.open(":memory:") as opened:
        yield opened


def runtime_on(board: Board, outside: Outside, workflow: Any = forward, **policy: Any) -> Runtime:
    policy = policy or {"asks": ["send"]}
    return Runtime(board, ScriptedModel(str), tools=[outside.tool], workflows=[workflow], policy=Policy.of(**policy))


async def pending(runtime: Runtime) -> Approval:
    while not (found := runtime.approvals("pending")):
        assert len(asyncio.all_tasks()) > 1, "nothing runs that could still ask"
        await asyncio.sleep(0.01)
    return found[0]


async def test_an_approved_call_happens_once_as_it_was_shown(board: Board, outside: Outside):
    runtime, events = runtime_on(board, outside), []
    running = asyncio.create_task(runtime.run("forward", "hello", listener=events.append))
    asked = await pending(runtime)
    assert (asked.kind, asked.subject, asked.arguments, asked.agent) == ("call", "send", {"text": "hello"}, "forward")
    assert outside.sent == [] and board.effects() == []
    await runtime.decide(asked.id, "approve", note="fine")
    result = await running
    assert (result.value, outside.sent) == (1, ["hello"])
    effect = board.effect(asked.id)
    assert effect is not None and effect.state is EffectState.SUCCEEDED and effect.intent.arguments == {"text": "hello"}
    assert [type(event) for event in events if isinstance(event, ApprovalRequested | ApprovalDecided)] == [
        ApprovalRequested,
        ApprovalDecided,
    ]
    decisions = board.query(Predicate(topic=topics.decisions(result.run)))
    assert [(one.value["allowed"], one.value["rule"]) for one in decisions] == [(False, "ask"), (True, "approved")]  # type: ignore[index,call-overload]
    assert (await runtime.replay(result.run)).identical
    with pytest.raises(AlreadyDecided):
        await runtime.decide(asked.id, "approve")
    assert outside.sent == ["hello"]


async def test_a_refused_call_never_happens(board: Board, outside: Outside):
    runtime = runtime_on(board, outside)
    running = asyncio.create_task(runtime.run("forward", "hello"))
    decided = await runtime.decide((await pending(runtime)).id, "reject", note="not today")
    assert (decided.status, decided.decided_by) == ("rejected", OWNER)
    result = await running
    assert result.failure is not None and result.failure.code == "AGS-0310" and "not today" in result.failure.message
    assert outside.sent == [] and board.effects() == []
    assert (await runtime.replay(result.run)).identical


async def test_a_run_waits_across_a_restart_and_another_process_may_decide(tmp_path: Path, outside: Outside):
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        runtime = runtime_on(board, outside)
        running = asyncio.create_task(runtime.run("forward", "hello", run_id="r"))
        asked = await pending(runtime)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    with Board.open(path) as board:
        await runtime_on(board, outside).decide(asked.id, "approve")
    assert outside.sent == []
    with Board.open(path) as board:
        runtime = runtime_on(board, outside)
        assert (await runtime.resume("r")).value == 1
        assert (await runtime.resume("r")).value == 1
    assert outside.sent == ["hello"]


async def test_foreign_influence_is_denied_unless_the_policy_asks_instead(board: Board, outside: Outside):
    denying = runtime_on(board, outside, trusted=[OWNER])
    denied = await denying.run("forward", "wire it", label=STRANGER)
    assert denied.failure is not None and denied.failure.code == "AGS-0310" and not denying.approvals()
    asking = runtime_on(board, outside, asks_if_untrusted=["send"])
    assert (await asking.run("forward", "my own")).value == 1
    running = asyncio.create_task(asking.run("forward", "wire it", label=STRANGER))
    asked = await pending(asking)
    assert "web:example.org" in asked.reason and "web:example.org" in asked.label.influencers
    await asking.decide(asked.id, "approve")
    result = await running
    assert outside.sent == ["my own", "wire it"]
    assert {"web:example.org", OWNER} <= result.label.influencers, "an approval does not wash the label"


async def test_no_approval_lets_data_out_to_those_who_may_not_read_it(board: Board):
    @tool(effect=EffectClass.IRREVERSIBLE, audience=PUBLIC, source=Label.trusted())
    def publish(text: str) -> None:
        raise AssertionError("it was published")

    policy = Policy.of(asks=["publish"], asks_if_untrusted=["publish"])

    async def leak(context: Any, text: Any) -> None:
        await context.call("publish", text=text)

    runtime = Runtime(board, ScriptedModel(str), tools=[publish], workflows=[leak], policy=policy)
    result = await runtime.run("leak", "secret")
    assert result.failure is not None and result.failure.code == "AGS-0310" and not runtime.approvals()


async def test_what_the_owner_may_not_read_cannot_be_asked_about(board: Board, outside: Outside):
    runtime = runtime_on(board, outside)
    result = await runtime.run("forward", "ann's", label=Label(frozenset({OWNER}), Readers.of("user:ann")))
    assert result.failure is not None and result.failure.code == "AGS-0310" and not runtime.approvals()


async def test_who_may_not_read_it_cannot_decide_it(board: Board, outside: Outside):
    runtime = runtime_on(board, outside)
    running = asyncio.create_task(runtime.run("forward", "hello"))
    asked = await pending(runtime)
    with pytest.raises(PolicyDenied):
        await runtime.decide(asked.id, "approve", by="user:eve")
    assert (await pending(runtime)).id == asked.id and outside.sent == []
    await runtime.decide(asked.id, "reject")
    await running


async def test_of_two_people_who_decide_at_once_one_decides(board: Board, outside: Outside):
    runtime = runtime_on(board, outside)
    running = asyncio.create_task(runtime.run("forward", "hello"))
    asked = await pending(runtime)
    words = [runtime.decide(asked.id, verdict) for verdict in ("approve", "reject", "approve", "reject")]
    outcomes = await asyncio.gather(*words, return_exceptions=True)
    assert sum(isinstance(outcome, Approval) for outcome in outcomes) == 1
    assert all(isinstance(outcome, Approval | AlreadyDecided) for outcome in outcomes)
    result = await running
    stands = Approval.load(board, asked.id)
    assert (result.status == "done") == (stands.status == "approved") == (outside.sent == ["hello"])


async def test_an_approval_of_an_ended_run_is_void(board: Board, outside: Outside):
    runtime = runtime_on(board, outside)
    running = asyncio.create_task(runtime.run("forward", "hello", run_id="r"))
    asked = await pending(runtime)
    await runtime.cancel("r")
    with pytest.raises(asyncio.CancelledError):
        await running
    assert runtime.approvals("pending") == [] and [one.id for one in runtime.approvals("void")] == [asked.id]
    with pytest.raises(AlreadyDecided):
        await runtime.decide(asked.id, "approve")
    assert board.effects() == [] and RunRecord.load(board, "r").status == "cancelled"


async def test_a_question_is_answered_or_refused(board: Board, outside: Outside):
    async def plan(context: Any, text: Any) -> Any:
        return (await context.ask_person("Which city?")).value

    runtime = runtime_on(board, outside, Workflow("plan", plan))
    running = asyncio.create_task(runtime.run("plan"))
    asked = await pending(runtime)
    assert (asked.kind, asked.subject) == ("question", "Which city?")
    await runtime.decide(asked.id, "approve", answer="Graz")
    result = await running
    assert result.value == "Graz" and (await runtime.replay(result.run)).identical
    running = asyncio.create_task(runtime.run("plan"))
    await runtime.decide((await pending(runtime)).id, "reject")
    failure = (await running).failure
    assert failure is not None and failure.code == "AGS-0607"


async def test_waiting_agents_leave_their_place_to_others(board: Board, outside: Outside):
    """More agents wait for a person than may act at once, and one more acts all the same."""
    acted: list[str] = []

    async def act(context: Any, request: Any) -> Any:
        if context.agent != "last":
            return (await context.call("send", text=context.agent)).value
        acted.append(context.agent)
        return None

    async def many(context: Any, text: Any) -> Any:
        return len((await context.ask("work", max_volunteers=MAX_ACTING + 2)).responses)

    names = [f"agent{number}" for number in range(MAX_ACTING + 1)]
    volunteers = [agent(kind="work", name=name, volunteer=offer(name, 1.0))(act) for name in names]
    volunteers.append(agent(kind="work", name="last", volunteer=offer("last", 0.1))(act))
    policy = Policy.of(asks=["send"])
    runtime = Runtime(
        board, ScriptedModel(str), tools=[outside.tool], agents=volunteers, workflows=[many], policy=policy
    )
    running = asyncio.create_task(runtime.run("many"))
    while len(runtime.approvals("pending")) < MAX_ACTING + 1 or not acted:
        await asyncio.sleep(0.01)
    for one in runtime.approvals("pending"):
        await runtime.decide(one.id, "approve")
    assert (await running).value == MAX_ACTING + 2
    assert sorted(outside.sent) == sorted(names)


def offer(name: str, score: float) -> Any:
    return lambda request: Bid(name, score, "works")


async def test_an_unknown_approval_is_refused(board: Board, outside: Outside):
    with pytest.raises(UnknownApproval):
        await runtime_on(board, outside).decide("b", "approve")


def test_the_topic_is_reserved():
    assert topics.is_reserved(topics.APPROVALS)
    assert topics.may_match_reserved(Predicate(topic_prefix="app"))
    assert not topics.may_match_reserved(Predicate(topic_prefix="notes/"))
