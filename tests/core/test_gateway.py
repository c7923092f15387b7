"""Tools and the gateway: what is allowed, what is denied, and what a call leaves on record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectState
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.errors import ConfigurationError
from agentsys.gateway import Allow, AskCall, Deny, Gateway, PolicyDenied
from agentsys.labelled import Labelled
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ToolRule
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import EffectInDoubt, ToolFailed
from agentsys.tools import ToolRegistry, tool

PRINCIPALS = ["user:owner", "user:ann", "file:a.csv", "external"]
readers = st.none() | st.frozensets(st.sampled_from(PRINCIPALS))
labels = st.builds(
    Label, st.frozensets(st.sampled_from(PRINCIPALS)), readers.map(Readers), st.sampled_from([0.0, 1.0, 64.0])
)


def gateway(tools, **policy) -> Gateway:
    return Gateway(Policy.of(**policy), ToolRegistry(tools))


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY)
def act(count: int) -> int:
    return count


@tool(effect=EffectClass.PURE)
def compute(count: int) -> int:
    return count


@given(control=labels, argument=labels, trusted=st.frozensets(st.sampled_from(PRINCIPALS)), audience=readers)
def test_a_consequential_call_is_allowed_exactly_under_trusted_influence_and_to_permitted_readers(
    control, argument, trusted, audience
):
    @tool(effect=EffectClass.IRREVERSIBLE, audience=Readers(audience))
    def send(text: str) -> None: ...

    decision = gateway([send], trusted=trusted).decide(
        "send", {"text": "x"}, control=control, labels={"text": argument}
    )
    joined = control.join(argument)
    assert isinstance(decision, Allow) == (
        joined.influencers <= trusted
        and control.readers.permits(Readers(audience))
        and argument.readers.permits(Readers(audience))
    )


@given(low=labels, more=labels, trusted=st.frozensets(st.sampled_from(PRINCIPALS)))
def test_raising_a_label_never_turns_a_denial_into_permission(low, more, trusted):
    guard = gateway([act], trusted=trusted)
    if isinstance(guard.decide("act", {"count": 1}, control=low, labels={}), Deny):
        assert isinstance(guard.decide("act", {"count": 1}, control=low.join(more), labels={}), Deny)


@pytest.mark.parametrize(
    ("name", "arguments", "rule"),
    [
        ("unknown", {}, "unknown-tool"),
        ("act", {}, "bad-arguments"),
        ("act", {"count": "many"}, "bad-arguments"),
        ("act", {"count": 1, "extra": 2}, "bad-arguments"),
    ],
)
def test_what_is_not_declared_is_denied(name, arguments, rule):
    decision = gateway([act]).decide(name, arguments, control=Label.trusted(), labels={})
    assert isinstance(decision, Deny)
    assert decision.rule == rule


@pytest.mark.parametrize(("ask", "decided"), [("never", Deny), ("if-untrusted", AskCall), ("always", AskCall)])
def test_a_person_who_sees_it_may_let_out_what_only_the_owner_may_read(ask: str, decided: type) -> None:
    @tool()
    def mail(to: str) -> None: ...

    rule = ToolRule(ask=ask, audience=("argument:to",), declassifies=True)
    asking = Gateway(Policy(tools={"mail": rule}), ToolRegistry([mail]))
    untrusted = Label(frozenset({"external"}))
    found = asking.decide("mail", {"to": "eve"}, control=Label.trusted(), labels={"to": untrusted})
    assert isinstance(found, decided)
    private = Label(frozenset({"external"}), Readers.of("user:ann"))
    found = asking.decide("mail", {"to": "eve"}, control=Label.trusted(), labels={"to": private})
    assert isinstance(found, Deny), "what even the owner may not read is not the owner's to let out"


def test_an_error_in_the_check_denies():
    class Broken(Policy):
        def trusts(self, label: Label, endorsers: Any = ()) -> bool:
            raise ZeroDivisionError("oops")

    decision = Gateway(Broken(), ToolRegistry([act])).decide("act", {"count": 1}, control=Label.trusted(), labels={})
    assert decision == Deny("error-in-check", "ZeroDivisionError: oops", telling=True)


def test_undeclared_tools_are_taken_at_their_worst():
    @tool()
    def mystery(text: str) -> str:
        return text

    assert (mystery.effect_class, mystery.consequential) == (EffectClass.IRREVERSIBLE, True)
    assert (mystery.audience, mystery.source) == (PUBLIC, Label())
    assert (compute.consequential, compute.audience, compute.source) == (False, NOBODY, None)


def test_a_tool_without_type_hints_or_query_is_refused():
    with pytest.raises(ConfigurationError, match="type hint"):

        @tool()
        def untyped(text): ...

    with pytest.raises(ConfigurationError, match="query"):

        @tool(effect=EffectClass.QUERYABLE)
        def unasked(text: str) -> None: ...


async def run_call(tools, name, **arguments):
    caught: list[Exception] = []
    values: list[object] = []

    async def workflow(context, value):
        try:
            values.append((await context.call(name, **arguments)).value)
        except Exception as error:
            caught.append(error)

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=tools)
        await runtime.run(workflow, run_id="r")
        decisions = [entry.value for commit in board.log() for entry in commit.writes if entry.type == "decision"]
        return values, caught, board.effects(), decisions


async def test_a_call_leaves_decision_intent_and_outcome():
    values, caught, effects, decisions = await run_call([act], "act", count="3")
    assert (values, caught) == ([3], [])
    assert [(effect.state, effect.intent.arguments, effect.result) for effect in effects] == [
        (EffectState.SUCCEEDED, {"count": 3}, {"value": 3})
    ]
    assert [(decision["allowed"], decision["rule"]) for decision in decisions] == [(True, "consequential")]


async def test_a_denied_call_leaves_its_decision_and_no_effect():
    _, caught, effects, decisions = await run_call([act], "act", wrong=1)
    assert isinstance(caught[0], PolicyDenied)
    assert effects == []
    assert [(decision["allowed"], decision["rule"]) for decision in decisions] == [(False, "bad-arguments")]


async def test_an_error_of_the_tool_is_a_failed_effect():
    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY)
    def broken() -> None:
        raise OSError("no route")

    _, caught, effects, _ = await run_call([broken], "broken")
    assert isinstance(caught[0], ToolFailed)
    assert "OSError: no route" in str(caught[0])
    assert [effect.state for effect in effects] == [EffectState.FAILED]


@pytest.mark.parametrize(
    ("effect", "state", "error"),
    [
        (EffectClass.PURE, EffectState.FAILED, ToolFailed),
        (EffectClass.IRREVERSIBLE, EffectState.IN_DOUBT, EffectInDoubt),
    ],
)
async def test_a_call_that_takes_too_long_is_in_doubt_unless_pure(effect, state, error):
    @tool(effect=effect, audience=NOBODY, timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    _, caught, effects, _ = await run_call([slow], "slow")
    assert isinstance(caught[0], error)
    assert [item.state for item in effects] == [state]


@pytest.mark.parametrize(("happened", "calls"), [("done before", 1), (None, 2)])
async def test_a_queryable_call_is_asked_about_after_a_crash(tmp_path, happened, calls):
    class Crash(BaseException):
        pass

    made: list[str] = []

    @tool(effect=EffectClass.QUERYABLE, audience=NOBODY, source=BOTTOM, query=lambda key: happened)
    async def send(idempotency_key: str) -> str:
        made.append(idempotency_key)
        if len(made) == 1:
            raise Crash
        return "sent now"

    async def workflow(context, value):
        return (await context.call("send")).value

    with Board.open(tmp_path / "b.db") as board, pytest.raises(Crash):
        await Runtime(board, ScriptedModel(str), tools=[send]).run(workflow, run_id="r")
    with Board.open(tmp_path / "b.db") as board:
        result = await Runtime(board, ScriptedModel(str), tools=[send]).resume("r", workflow)
    assert result.value == (happened or "sent now")
    assert len(made) == calls
    assert len(set(made)) == 1


async def test_a_call_in_doubt_can_be_settled(tmp_path):
    class Crash(BaseException):
        pass

    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
    async def launch() -> str:
        raise Crash

    async def workflow(context, value):
        return (await context.call("launch")).value

    with Board.open(tmp_path / "b.db") as board, pytest.raises(Crash):
        await Runtime(board, ScriptedModel(str), tools=[launch]).run(workflow, run_id="r")
    with Board.open(tmp_path / "b.db") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[launch])
        effect = board.effects(run="r")[0]
        assert effect.state is EffectState.STARTED
        await runtime.settle(effect.id, "succeeded", "launched")
        assert (await runtime.resume("r", workflow)).value == "launched"


async def test_the_owner_is_trusted_by_default_and_others_are_not():
    guard = gateway([act])
    for principal, allowed in ((OWNER, True), ("user:ann", False)):
        decision = guard.decide("act", {"count": 1}, control=Label.trusted(principal), labels={})
        assert isinstance(decision, Allow) == allowed


async def test_a_decision_carries_the_labels_of_the_arguments_it_may_quote():
    secret = Label(frozenset({"file:diary"}), Readers.of("user:ann"))

    @tool(effect=EffectClass.PURE)
    def measure(count: int) -> int:
        return count

    async def workflow(context, value):
        with pytest.raises(PolicyDenied):
            await context.call("measure", count=Labelled("not a number", secret))

    with Board.open(":memory:") as board:
        await Runtime(board, ScriptedModel(str), tools=[measure]).run(workflow, run_id="r")
        (decision,) = [entry for commit in board.log() for entry in commit.writes if entry.type == "decision"]
    assert decision.value["rule"] == "bad-arguments"
    assert secret.flows_to(decision.label)
