"""Calls and answers on record: whose label they have when taken over, what is remembered, what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.events import ApprovalRequested
from agentsys.gateway import PolicyDenied
from agentsys.journal import ReplayDivergence
from agentsys.labelled import Labelled
from agentsys.memoisation import Memoise
from agentsys.policy.documents import read_policy
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import EffectInDoubt, ToolFailed, UnknownTool
from agentsys.tools import Tool, ToolError, tool
from tests.ifc.world import MAIL, WEB, done, steps

TRUSTED = Label.trusted()

Main = Callable[[Context, Any], Awaitable[Any]]


def taken_over(board: Board, tools: list[Tool], first: Main, second: Main, policy: Policy | None = None) -> None:
    """Run ``first``, and then ``second``, the same program with other labels, over its record."""

    async def both() -> None:
        runtime = Runtime(board, ScriptedModel(str), tools=tools, policy=policy or Policy())
        result = await runtime.run(first)
        assert result.status == "done", result.failure
        await runtime.replay(result.run, second)

    asyncio.run(both())


def test_an_answer_on_record_raises_the_label_of_whoever_takes_it_over(board: Board) -> None:
    seen: list[Label] = []

    async def first(context: Context, _: Any) -> None:
        context.deliver(WEB)
        await context.generate("x")

    async def second(context: Context, _: Any) -> None:
        answer = await context.generate("x")
        seen.extend([answer.label, context.label])

    taken_over(board, [], first, second)
    assert seen == [TRUSTED.join(WEB)] * 2


def test_an_answer_on_record_has_the_label_of_the_question_that_takes_it_over(board: Board) -> None:
    seen: list[Label] = []

    async def first(context: Context, _: Any) -> None:
        await context.generate("x")

    async def second(context: Context, _: Any) -> None:
        context.deliver(WEB)
        seen.append((await context.generate("x")).label)

    taken_over(board, [], first, second)
    assert seen == [TRUSTED.join(WEB)]


@tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY, source=BOTTOM)
def echo(what: str) -> str:
    return what


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("higher", ["first", "second"])
def test_a_call_on_record_has_the_labels_of_both_who_made_it_and_who_takes_it_over(
    board: Board, hide: bool, higher: str
) -> None:
    seen: list[Label] = []

    def program(name: str) -> Main:
        async def main(context: Context, _: Any) -> None:
            what = Labelled("x", WEB if name == higher else TRUSTED)
            found = await (context.call_hidden if hide else context.call)("echo", what=what)
            if name == "second":
                seen.append(found.label)

        return main

    taken_over(board, [echo], program("first"), program("second"))
    assert seen == [TRUSTED.join(WEB)]


@pytest.mark.parametrize("higher", ["first", "second"])
def test_a_denial_on_record_is_shown_with_the_labels_of_both(board: Board, higher: str) -> None:
    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
    def launch(what: str, why: str) -> str:
        return what

    seen: list[Label] = []

    def program(name: str) -> Main:
        async def main(context: Context, _: Any) -> None:
            what = Labelled("x", WEB if name == higher else TRUSTED)
            with pytest.raises(PolicyDenied, match="denied by rule integrity") as caught:
                await context.call("launch", what=what, why=Labelled("y", MAIL))
            assert caught.value.rule == "integrity"
            if name == "second":
                seen.append(context.label)

        return main

    taken_over(board, [launch], program("first"), program("second"))
    assert seen == [TRUSTED.join(MAIL, WEB)]


# Of calls.


def test_a_tool_that_is_gone_is_named_when_its_result_is_wanted_again(board: Board) -> None:
    said: list[str] = []

    async def main(context: Context, _: Any) -> None:
        try:
            await context.call("echo", what="x")
        except UnknownTool as unknown:
            said.append(unknown.message)

    async def gone() -> None:
        await Runtime(board, ScriptedModel(str), tools=[echo]).run(main, run_id="r")
        with pytest.raises(UnknownTool):
            await Runtime(board, ScriptedModel(str)).replay("r", main)

    asyncio.run(gone())
    assert said == ["Run r needs the tool 'echo', which is not registered."]


@pytest.mark.parametrize("hide", [True, False])
def test_who_shapes_a_result_may_depend_on_what_was_asked(board: Board, hide: bool) -> None:
    policy = read_policy('[tools.echo]\nsource = []\nsources = { what = { theirs = ["web"] } }\n')

    async def main(context: Context, _: Any) -> list[list[str]]:
        call = context.call_hidden if hide else context.call
        return [sorted((await call("echo", what=what)).label.influencers) for what in ("ours", "theirs")]

    result = asyncio.run(Runtime(board, ScriptedModel(str), tools=[echo], policy=policy).run(main))
    assert result.value == [[OWNER], [OWNER, "web"]]


def test_who_shapes_a_failure_may_depend_on_what_was_asked(board: Board) -> None:
    @tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY, source=BOTTOM)
    def fail(what: str) -> str:
        raise OSError(f"no {what}")

    policy = read_policy('[tools.fail]\nsource = []\nsources = { what = { theirs = ["web"] } }\n')

    async def main(context: Context, _: Any) -> list[list[str]]:
        labels = []
        for what in ("ours", "theirs"):
            with pytest.raises(ToolFailed, match=f"no {what}"):
                await context.call("fail", what=what)
            labels.append(sorted(context.label.influencers))
        return labels

    result = asyncio.run(Runtime(board, ScriptedModel(str), tools=[fail], policy=policy).run(main))
    assert result.value == [[OWNER], [OWNER, "web"]]


def test_a_call_that_a_person_must_allow_is_asked_about_every_time_and_never_remembered(board: Board) -> None:
    made: list[str] = []

    @tool(effect=EffectClass.PURE, memo=Memoise(), source=BOTTOM)
    def look(what: str) -> str:
        made.append(what)
        return what

    async def main(context: Context, _: Any) -> Any:
        return (await context.call("look", what="x")).value

    async def twice() -> None:
        runtime = Runtime(board, ScriptedModel(str), tools=[look], policy=Policy.of(asks=["look"]))
        for _ in range(2):
            running = asyncio.ensure_future(runtime.run(main))
            while not (waiting := runtime.approvals("pending")):
                assert not running.done(), "it ended and asked nobody"
                await asyncio.sleep(0.01)
            await runtime.decide(waiting[0].id, "approve")
            assert (await running).value == "x"
        assert len(runtime.approvals()) == 2

    asyncio.run(twice())
    assert made == ["x", "x"]
    assert board.query(Predicate(topic=topics.MEMO)) == [], "nobody else is to find what was allowed once"


def test_the_record_of_a_denied_call_says_by_which_rule_and_why(board: Board) -> None:
    async def body(context: Context) -> None:
        with pytest.raises(PolicyDenied, match=r"^AGS-0310: The call of pay was denied by rule integrity: pay is cons"):
            await context.call("pay", to=Labelled("eve", WEB), amount=5)
        with pytest.raises(PolicyDenied, match="rule unknown-tool"):
            await context.call("nothing")

    done(board, body)
    denied = steps(board, "call")
    assert [(step["denied"], step["telling"]) for step in denied] == [("integrity", False), ("unknown-tool", False)]
    assert denied[0]["reason"] == "pay is consequential and web shaped its argument 'to'"


class Dead(ToolError):
    """The line broke after the request was sent."""

    unknown = True


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("higher", ["first", "second"])
def test_a_call_of_which_nobody_knows_what_became_shows_its_source_and_the_labels_of_both(
    board: Board, hide: bool, higher: str
) -> None:
    @tool(effect=EffectClass.IRREVERSIBLE, consequential=False, audience=NOBODY, source=WEB)
    def launch(what: str) -> str:
        raise Dead("the line went dead")

    seen: list[Label] = []

    def program(name: str) -> Main:
        async def main(context: Context, _: Any) -> None:
            what = Labelled("x", MAIL if name == higher else TRUSTED)
            with pytest.raises(EffectInDoubt):
                await (context.call_hidden if hide else context.call)("launch", what=what)
            seen.append(context.label)

        return main

    taken_over(board, [launch], program("first"), program("second"))
    lower = TRUSTED.join(WEB) if higher == "second" else TRUSTED.join(WEB, MAIL)
    assert seen == [lower, TRUSTED.join(WEB, MAIL)]


@pytest.mark.parametrize("look", ["reveal", "visible", "call_hidden"])
def test_after_a_step_that_is_not_the_recorded_one_nothing_is_shown_any_more(board: Board, look: str) -> None:
    seen: list[Any] = []

    async def first(context: Context, _: Any) -> None:
        await context.call_hidden("echo", what="x")
        await context.call_hidden("echo", what="y")

    async def second(context: Context, _: Any) -> None:
        hidden = await context.call_hidden("echo", what="x")
        with pytest.raises(ReplayDivergence):
            await context.call_hidden("echo", what="z")
        for _ in range(2):
            with pytest.raises(ReplayDivergence):
                shown = context.visible(hidden) if look == "visible" else None
                if look == "reveal":
                    shown = await context.reveal(hidden)
                elif look == "call_hidden":
                    shown = await context.call_hidden("echo", what="y")
                seen.append(shown)
        seen.append("end")

    taken_over(board, [echo], first, second)
    assert seen == ["end"]


class Leaving:
    """A source that forgets its tools, as a server does that goes away."""

    prefix = "far."

    def __init__(self, *tools: Tool) -> None:
        self.tools = {member.name: member for member in tools}

    def known(self) -> dict[str, Tool]:
        return self.tools

    async def discover(self, name: str | None = None) -> None:
        return

    async def close(self) -> None:
        return


def test_a_call_that_a_person_allowed_is_not_made_once_its_server_is_forgotten(board: Board) -> None:
    @tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY, source=BOTTOM, name="far.echo")
    def far(what: str) -> str:
        return what

    async def main(context: Context, _: Any) -> Any:
        return (await context.call("far.echo", what="x")).value

    async def forgotten() -> Any:
        source = Leaving(far)
        runtime = Runtime(board, ScriptedModel(str), policy=Policy.of(asks=["far.echo"]))
        runtime.tools.attach(source)
        running = asyncio.ensure_future(runtime.run(main))
        while not (waiting := runtime.approvals("pending")):
            assert not running.done(), "it ended and asked nobody"
            await asyncio.sleep(0.01)
        source.tools = {}
        await runtime.decide(waiting[0].id, "approve")
        try:
            return (await running).failure
        except UnknownTool as unknown:
            return unknown

    # Which of the two depends on whether the run has looked the tool up before it waits.
    assert asyncio.run(forgotten()).code in (PolicyDenied.code, UnknownTool.code)
    assert board.effects() == []


def test_a_result_of_which_the_server_is_gone_meanwhile_has_one_label_for_all_of_it(board: Board) -> None:
    source = Leaving()

    @tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY, source=WEB, name="far.read")
    def read() -> dict[str, str]:
        source.tools = {}
        return {"body": "x", "id": "y"}

    async def main(context: Context, _: Any) -> list[list[str]]:
        page = await context.call_hidden("far.read")
        return [sorted(page[part].label.influencers) for part in ("body", "id")]

    source.tools = {"far.read": read}
    policy = read_policy('[tools."far.read"]\nfields = { body = ["mail"] }\n')
    runtime = Runtime(board, ScriptedModel(str), policy=policy)
    runtime.tools.attach(source)
    assert asyncio.run(runtime.run(main)).value == [["mail", OWNER, "web"]] * 2


def test_the_form_of_a_result_is_its_tools_and_a_part_is_whose_the_policy_says(board: Board) -> None:
    @tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY, source=WEB)
    def read() -> dict[str, str]:
        return {"body": "x", "id": "y"}

    async def main(context: Context, _: Any) -> list[list[str]]:
        page = await context.call_hidden("read")
        return [sorted(page[part].label.influencers) for part in ("body", "id")]

    policy = read_policy('[tools.read]\nfields = { body = ["mail"] }\n')
    result = asyncio.run(Runtime(board, ScriptedModel(str), tools=[read], policy=policy).run(main))
    assert result.value == [["mail", OWNER], [OWNER, "web"]]


def test_whoever_goes_on_with_a_run_is_told_of_what_is_still_to_decide_alone(board: Board) -> None:
    async def main(context: Context, _: Any) -> None:
        for what in ("one", "two"):
            await context.call("echo", what=what)

    async def pending(runtime: Runtime, running: asyncio.Future[Any], what: str) -> str:
        while not (found := [one for one in runtime.approvals("pending") if one.arguments == {"what": what}]):
            assert not running.done(), "it ended and asked nobody"
            await asyncio.sleep(0.01)
        return found[0].id

    async def interrupted() -> list[Any]:
        runtime = Runtime(board, ScriptedModel(str), tools=[echo], policy=Policy.of(asks=["echo"]))
        running = asyncio.ensure_future(runtime.run(main, run_id="r"))
        await runtime.decide(await pending(runtime, running, "one"), "approve")
        second = await pending(runtime, running, "two")
        running.cancel()
        await asyncio.wait([running])
        told: list[Any] = []
        resumed = asyncio.ensure_future(runtime.resume("r", main, listener=told.append))
        while not any(isinstance(event, ApprovalRequested) for event in told):
            assert not resumed.done(), "it ended and asked nobody"
            await asyncio.sleep(0.01)
        await runtime.decide(second, "approve")
        assert (await resumed).status == "done"
        return [event.arguments for event in told if isinstance(event, ApprovalRequested)]

    assert asyncio.run(interrupted()) == [{"what": "two"}]


def test_that_nobody_can_be_asked_what_became_of_a_call_is_shown_with_the_labels_of_both(board: Board) -> None:
    started = asyncio.Event()

    def ask_about(key: str) -> Any:
        raise OSError("no line")

    @tool(effect=EffectClass.QUERYABLE, consequential=False, audience=NOBODY, source=BOTTOM, query=ask_about)
    async def launch(what: str) -> None:
        started.set()
        await asyncio.sleep(60)

    seen: list[Label] = []

    async def first(context: Context, _: Any) -> None:
        await context.call_hidden("launch", what=Labelled("x", TRUSTED))

    async def second(context: Context, _: Any) -> None:
        with pytest.raises(EffectInDoubt, match="no line"):
            await context.call_hidden("launch", what=Labelled("x", WEB))
        seen.append(context.label)

    async def interrupted() -> None:
        runtime = Runtime(board, ScriptedModel(str), tools=[launch])
        running = asyncio.ensure_future(runtime.run(first, run_id="r"))
        await started.wait()
        running.cancel()
        await asyncio.wait([running])
        await runtime.resume("r", second)

    asyncio.run(interrupted())
    assert seen == [TRUSTED.join(WEB)]
