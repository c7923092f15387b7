"""Calls and questions of a run: what is shown raises the control label by its own, what is hidden does not."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from pydantic import BaseModel

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.capacity import capacity_of
from agentsys.context import Context
from agentsys.gateway import PolicyDenied
from agentsys.handles import Handle, NoValue
from agentsys.labelled import Labelled
from agentsys.memoisation import Memoise
from agentsys.policy.documents import read_policy
from agentsys.runtime import Runtime
from agentsys.serving.requests import GenerateRequest
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import ToolFailed, UnknownTool
from agentsys.tools import Tool, tool
from tests.ifc.world import DIARY, MAIL, POLICY, WEB, World, done

TRUSTED = Label.trusted()


def decisions(board: Board) -> list[tuple[str, bool, str]]:
    found = [entry for commit in board.log() for entry in commit.writes if entry.type == "decision"]
    bodies: list[Any] = [entry.value for entry in found]
    return [(body["action"], body["allowed"], body["rule"]) for body in bodies]


def test_a_shown_result_has_the_label_of_the_caller_the_arguments_and_the_source(board: Board) -> None:
    async def body(context: Context) -> None:
        shown = await context.call("browse")
        assert (shown.value, shown.label, context.label) == (["welcome"], TRUSTED.join(WEB), TRUSTED.join(WEB))
        mail = await context.call("read_mail")
        assert context.label == mail.label == TRUSTED.join(WEB, MAIL)

    done(board, body)
    assert decisions(board) == [("call browse", True, "harmless"), ("call read_mail", True, "harmless")]


def test_a_hidden_result_raises_nothing_and_is_labelled_part_by_part(board: Board) -> None:
    async def body(context: Context) -> None:
        mail, diary = await context.call_hidden("read_mail"), await context.call_hidden("read_diary")
        assert (mail.name, diary.name) == ("$1", "$2")
        assert context.label == TRUSTED
        assert mail[0]["id"].label == TRUSTED.join(DIARY)
        assert mail[0]["body"].label == mail.label == TRUSTED.join(MAIL)
        pages = await context.call_hidden("browse")
        assert pages.label == TRUSTED.join(WEB)
        sent = await context.call_hidden("send", to="ann@example.org", text=mail[0]["body"])
        assert sent.label == TRUSTED.join(MAIL)
        both = context.together(pages, sent)
        assert (both.name, both[0].label, both[1].label) == ("$5", pages.label, sent.label)

    done(board, body)


def test_what_is_revealed_raises_the_label_by_its_own(board: Board) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        number = await context.reveal(mail[0]["id"])
        assert (number.value, number.label, context.label) == (1, TRUSTED, TRUSTED)
        text = await context.reveal(mail[0]["body"])
        assert (text.value, text.label, context.label) == ("general", TRUSTED.join(MAIL), TRUSTED.join(MAIL))

    done(board, body)


@pytest.mark.parametrize("looking", ["reveal", "visible", "argument"])
def test_that_a_handle_stands_for_nothing_raises_it_too(board: Board, looking: str) -> None:
    async def body(context: Context) -> None:
        nothing = (await context.call_hidden("read_mail"))[7]["body"]
        with pytest.raises(NoValue) as caught:
            if looking == "reveal":
                await context.reveal(nothing)
            elif looking == "argument":
                await context.call("post", text=nothing)
            else:
                context.deliver(MAIL)
                context.visible(nothing)
        assert caught.value.label.flows_to(context.label)
        assert "mail" in context.label.influencers

    done(board, body)


@pytest.mark.parametrize("whole", [False, True])
def test_a_hidden_call_with_nothing_as_an_argument_is_decided_by_labels_and_fails_unseen(
    board: Board, whole: bool
) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        nothing: Any = mail[7]["body"]
        given: Any = [nothing, Labelled("x", WEB)] if whole else nothing
        with pytest.raises(PolicyDenied, match="by rule integrity"):
            await context.call_hidden("pay", to=nothing, amount=5)
        failed = await context.call_hidden("send", to="ann@example.org", text=given)
        again = await context.call_hidden("send", to="ann@example.org", text=failed)
        assert context.label == TRUSTED
        assert failed.label == again.label == (TRUSTED.join(MAIL, WEB) if whole else TRUSTED.join(MAIL))
        with pytest.raises(NoValue, match="nothing is at 7"):
            await context.reveal(again)
        context.deliver(MAIL)
        with pytest.raises(NoValue):
            await context.call_hidden("send", to="ann@example.org", text=nothing)

    done(board, body)
    assert [rule for action, _, rule in decisions(board) if action == "call send"] == ["bad-arguments"] * 2


def test_a_shown_failure_raises_the_label_and_a_hidden_one_does_not(board: Board) -> None:
    async def body(context: Context) -> None:
        hidden = await context.call_hidden("browse")
        assert (context.label, hidden.label) == (TRUSTED, TRUSTED.join(WEB))
        with pytest.raises(ToolFailed, match="the page wants you to pay eve"):
            await context.call("browse")
        assert context.label == TRUSTED.join(WEB)
        with pytest.raises(NoValue, match="the page wants you to pay eve"):
            await context.reveal(hidden)

    done(board, body, World(pages=None))


def test_a_denial_by_labels_is_shown_and_one_by_what_is_hidden_is_as_hidden(board: Board) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        for amount in (5, mail[0]["body"], mail):
            with pytest.raises(PolicyDenied, match="by rule integrity: pay is consequential and mail shaped") as caught:
                await context.call_hidden("pay", to=mail[0]["sender"], amount=amount)
            assert (caught.value.rule, context.label) == ("integrity", TRUSTED), "labels alone decided"
        with pytest.raises(PolicyDenied, match="by rule bad-arguments"):
            await context.call_hidden("pay", to="ann@example.org", amount="many")

    done(board, body)


@pytest.mark.parametrize("limit", [2, 1])
def test_a_call_that_fails_by_what_is_hidden_looks_like_any_other(board: Board, limit: int) -> None:
    @tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY, source=WEB)
    def count(text: int) -> int:
        return text

    async def body(context: Context, _: Any) -> list[Any]:
        mail = await context.call_hidden("read_mail")
        seen: list[Any] = []
        for part in ("id", "body"):
            try:
                handle = await context.call_hidden("count", text=mail[0][part])
                seen.append((str(handle), context.label == TRUSTED))
            except PolicyDenied as denied:
                seen.append(denied.rule)
        if limit == 2:
            with pytest.raises(NoValue, match="by rule bad-arguments") as nothing:
                await context.reveal(handle)
            assert nothing.value.label == context.label == handle.label == TRUSTED.join(MAIL, WEB)
        return seen

    made = World(policy=read_policy(f"{POLICY}\n[tools.count.limits]\nrun = {limit}\n"))
    runtime = Runtime(board, made.model, tools=[*made.tools(), count], policy=made.policy)
    result = asyncio.run(runtime.run(body))
    assert result.status == "done", result.failure
    assert result.value == [["$2", True], ["$3", True] if limit == 2 else "quota"], "a failed call counts too"


def test_a_shown_denial_raises_the_label_by_the_arguments(board: Board) -> None:
    async def body(context: Context) -> None:
        with pytest.raises(PolicyDenied, match="by rule integrity"):
            await context.call("pay", to=Labelled("eve", WEB), amount=5)
        assert context.label == TRUSTED.join(WEB)

    done(board, body)
    assert decisions(board) == [("call pay", False, "integrity")]


def test_a_tool_that_says_more_of_its_result_than_declared_is_believed(board: Board) -> None:
    @tool(effect=EffectClass.IDEMPOTENT)
    def read_mail() -> Any:
        return Labelled([{"id": 1, "sender": "x", "body": "y"}], Label(frozenset({"ghost"}), PUBLIC))

    world = World()
    world.tools = lambda: [read_mail]  # type: ignore[method-assign]

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        assert "ghost" in mail[0]["id"].label.influencers

    done(board, body, world)


class Fact(BaseModel):
    flag: bool


def asked_label(world: World) -> Label:
    request: GenerateRequest = world.model.requests[-1]
    return request.label


def test_what_a_model_reads_in_quarantine_stays_hidden_and_bounded(board: Board) -> None:
    world = World(answer=lambda _: {"flag": True})

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        fact = await context.extract(mail[0]["body"], Fact, question="is it?")
        assert context.label == TRUSTED
        assert fact.label == Label(frozenset({OWNER, "mail"}), Readers.of(OWNER), capacity_of(Fact))
        assert (await context.reveal(fact)).value == {"flag": True}

    done(board, body, world)
    (request,) = world.model.requests
    assert request.label == TRUSTED.join(MAIL)
    assert request.sampling.max_tokens == 512
    texts = [part.content for part in request.prompt]  # type: ignore[union-attr]
    assert "is it?" in texts[0] and texts[1] == "general"


@pytest.mark.parametrize("part", ["body", "nothing"])
def test_what_cannot_be_read_in_quarantine_is_hidden_nothing(board: Board, part: str) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        fact = await context.extract(mail[0][part], Fact)
        assert context.label == TRUSTED
        assert {"mail"} < fact.label.influencers or part == "nothing"
        assert fact.label.capacity == math.inf
        with pytest.raises(NoValue, match="stands for nothing: "):
            await context.reveal(fact)
        assert "mail" in context.label.influencers

    done(board, body, World(answer=lambda _: "no object"))


def test_what_is_read_in_the_open_raises_the_label(board: Board) -> None:
    async def body(context: Context) -> None:
        fact = await context.extract(Labelled({"x": 1}, WEB), Fact)
        assert fact.value == Fact(flag=False)
        assert fact.label == Label(frozenset({OWNER, "web"}), Readers.of(OWNER), 1.0)
        assert context.label == TRUSTED.join(WEB)
        again = await context.generate("hello")
        assert again.label == TRUSTED.join(WEB)

    world = World(answer=lambda _: {"flag": False})
    done(board, body, world)
    assert asked_label(world) == TRUSTED.join(WEB)


def test_a_model_that_may_not_learn_is_not_asked_and_the_denial_is_shown(board: Board) -> None:
    world = World()
    world.model.audience = PUBLIC  # type: ignore[attr-defined]

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        with pytest.raises(PolicyDenied, match="by rule audience"):
            await context.extract(mail[0]["body"], Fact)
        assert context.label == TRUSTED.join(MAIL)

    done(board, body, world)
    assert world.model.requests == []


def test_a_choice_among_members_is_vouched_for_and_bounded(board: Board) -> None:
    world = World(answer=lambda _: {"value": "random"})

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        chosen = await context.choose(mail[0]["body"], "channel", "which?")
        assert context.label == TRUSTED
        assert (chosen.label.influencers, chosen.label.shaped_by) == ({OWNER}, {OWNER, "mail"})
        assert chosen.label.capacity == pytest.approx(math.log2(3))
        assert {fact.endorser for fact in chosen.label.endorsements} == {"channel"}
        assert (await context.reveal(chosen)).value == "random"

    done(board, body, world)
    assert ("endorse by channel", True, "endorsed") in decisions(board)
    assert "which?" in str(world.model.requests[0].prompt)


def test_a_directory_that_cannot_be_listed_vouches_for_nothing_and_says_so_with_its_label(board: Board) -> None:
    world = World(policy=read_policy(POLICY.replace('tool = "list_channels"', 'tool = "browse"')), pages=None)

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        with pytest.raises(NoValue, match="the page wants"):
            await context.endorse(mail[0]["body"], "channel")
        assert "web" in context.label.influencers

    done(board, body, world)


def test_a_directory_that_strangers_shape_vouches_for_nothing(board: Board) -> None:
    world = World(policy=read_policy(POLICY.replace('tool = "list_channels"', 'tool = "browse"')))

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        with pytest.raises(PolicyDenied, match="by rule untrusted-directory: the directory channels comes from browse"):
            await context.endorse(mail[0]["body"], "channel")

    done(board, body, world)
    assert decisions(board)[-1] == ("endorse by channel", False, "untrusted-directory")


def test_a_used_up_budget_denies_and_leaves_no_endorsement(board: Board) -> None:
    async def body(context: Context) -> int:
        mail = await context.call_hidden("read_mail")
        made = 0
        with pytest.raises(PolicyDenied, match="by rule quota: bits that mail says"):
            for made in range(40):  # noqa: B007
                await context.endorse(mail[0]["sender"], "contact")
        return made

    made = done(board, body)
    assert made == 12, "two bits each of 24"
    assert [found for found in decisions(board) if found[0] == "endorse by contact"] == [
        *[("endorse by contact", True, "endorsed")] * 12,
        ("endorse by contact", False, "quota"),
    ]


def test_a_used_up_limit_denies_and_nothing_is_done(board: Board) -> None:
    world = World(policy=read_policy(POLICY + "\n[tools.browse.limits]\nrun = 1\n"))

    async def body(context: Context) -> None:
        await context.call_hidden("browse")
        with pytest.raises(PolicyDenied, match="by rule quota: calls of browse in the run") as caught:
            await context.call_hidden("browse")
        assert caught.value.rule == "quota"

    done(board, body, world)
    assert decisions(board) == [("call browse", True, "harmless"), ("call browse", False, "quota")]
    assert len(board.effects()) == 1


@tool(effect=EffectClass.PURE, memo=Memoise(), source=WEB)
def remember(what: str) -> str:
    return what.upper()


@pytest.mark.parametrize("hide", [True, False])
def test_a_remembered_answer_has_the_label_of_a_fresh_one(board: Board, hide: bool) -> None:
    async def main(context: Context, _: Any) -> list[Any]:
        if hide:
            handle = await context.call_hidden("remember", what=Labelled("a", WEB))
            before, label = context.label, handle.label
            value = (await context.reveal(handle)).value
        else:
            found = await context.call("remember", what=Labelled("a", WEB))
            before, label, value = context.label, found.label, found.value
        return [before.to_json(), label.to_json(), value]

    async def twice() -> list[Any]:
        runtime = Runtime(board, ScriptedModel(str), tools=[remember])
        return [(await runtime.run(main)).value for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first == second
    assert first[0] == (TRUSTED if hide else TRUSTED.join(WEB)).to_json()
    assert first[1:] == [TRUSTED.join(WEB).to_json(), "A"]
    kinds = [entry.value for entry in board.query(Predicate(topic_prefix="runs/", type="step"))]
    assert sum("memo" in kind["value"] for kind in kinds) == 1  # type: ignore[call-overload,index,operator]


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=BOTTOM)
def launch(what: str) -> str:
    return f"launched {what}"


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_a_call_that_a_person_decides_waits_and_tells_a_hidden_caller_one_bit(
    board: Board, hide: bool, verdict: str
) -> None:
    async def main(context: Context, _: Any) -> Any:
        what = Labelled("x", WEB)
        try:
            if hide:
                await context.call_hidden("launch", what=what)
            else:
                await context.call("launch", what=what)
            refused = None
        except PolicyDenied as denied:
            refused = denied.rule
        return [refused, context.label.to_json()]

    async def both() -> Any:
        policy = read_policy('[tools.launch]\nask = "if-untrusted"')
        runtime = Runtime(board, ScriptedModel(str), tools=[launch], policy=policy)
        running = asyncio.ensure_future(runtime.run(main))
        while not (waiting := runtime.approvals("pending")):
            assert not running.done(), "it ended and asked nobody"
            await asyncio.sleep(0.01)
        assert board.effects() == [], "nothing is planned before the word"
        await runtime.decide(waiting[0].id, verdict)  # type: ignore[arg-type]
        return (await running).value

    refused, label = asyncio.run(both())
    assert (refused is None) == (verdict == "approve")
    assert [effect.intent.arguments for effect in board.effects()] == [{"what": "x"}] * (verdict == "approve")
    assert ("web" in Label.from_json(label).influencers) == (not hide)
    assert OWNER in Label.from_json(label).influencers
    assert [found[1] for found in decisions(board)] == [False, verdict == "approve"]


def test_a_call_of_a_tool_that_is_gone_is_an_error_and_not_an_allowance(board: Board) -> None:
    async def main(context: Context, _: Any) -> None:
        await context.call("launch", what="x")

    async def gone() -> Any:
        await Runtime(board, ScriptedModel(str), tools=[launch]).run(main, run_id="r")
        return await Runtime(board, ScriptedModel(str)).replay("r", main)

    with pytest.raises(UnknownTool, match="needs the tool 'launch'"):
        asyncio.run(gone())


def test_quotas_are_public_and_say_nothing_but_how_much(board: Board) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        await context.endorse(mail[0]["sender"], "contact")

    done(board, body)
    (entry,) = board.query(Predicate(topic=topics.QUOTAS))
    assert (entry.value, entry.label) == ({"spent": 2.0}, BOTTOM)


def test_tools_are_as_the_policy_has_them(board: Board) -> None:
    async def body(context: Context) -> None:
        found = context.tool("browse")
        assert isinstance(found, Tool) and (found.consequential, found.source) == (False, WEB)
        assert context.tool("nothing") is None
        assert context.policy.budget_bits == 24
        assert isinstance(context.visible(await context.call_hidden("browse")), Handle)

    done(board, body)
