"""What models, endorsers and tools are asked, what is kept of their answers, and the label of what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.errors import ServingError
from agentsys.gateway import PolicyDenied
from agentsys.handles import NoValue
from agentsys.labelled import Labelled
from agentsys.memoisation import Memoise
from agentsys.models import ModelFailed
from agentsys.policy.documents import read_policy
from agentsys.runtime import Runtime
from agentsys.serving.requests import Constraint, Message, SamplingParams
from agentsys.testing import ScriptedModel
from agentsys.tools import tool
from tests.ifc.world import MAIL, POLICY, World, attempt, done, steps

TRUSTED = Label.trusted()
OPEN = Label.trusted(readers=PUBLIC)

Main = Callable[[Context, Any], Awaitable[Any]]


class Fact(BaseModel):
    flag: bool


# What is asked.


def test_a_model_in_quarantine_reads_the_text_itself_as_it_was_written(board: Board) -> None:
    world = World(answer=lambda _: {"flag": True})
    world.mail[0]["body"] = "Zoë, 日本"

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        await context.extract(mail[0], Fact, model="small", max_tokens=7)

    done(board, body, world)
    (request,) = world.model.requests
    assert '"body": "Zoë, 日本"' in request.prompt[1].content  # type: ignore[union-attr]
    assert request.sampling == SamplingParams(max_tokens=7)
    assert [part.role for part in request.prompt] == ["system", "user"]  # type: ignore[union-attr]
    assert request.constraint is not None, "it can answer in the form alone"
    (step,) = steps(board, "extract")
    assert step["model"] == "small"


def test_a_choice_is_asked_of_the_named_model_and_bounded_as_any_reading_is(board: Board) -> None:
    world = World(answer=lambda _: {"value": "random"})

    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        await context.choose(mail[0]["body"], "channel", model="small")
        await context.extract(mail[0]["body"], Fact)

    done(board, body, world)
    chosen, extracted = world.model.requests
    assert chosen.sampling == extracted.sampling == SamplingParams(max_tokens=512)
    assert steps(board, "extract")[0]["model"] == "small"


def test_a_server_is_told_for_which_run_and_agent_it_works_and_all_that_was_asked(board: Board) -> None:
    world, constraint, sampling = World(), Constraint("regex", "a*"), SamplingParams(temperature=0.5, seed=3)

    async def body(context: Context) -> None:
        await context.generate([Message("user", "x")], constraint=constraint, sampling=sampling)
        await context.generate("y")

    result = attempt(board, world, body)
    first, second = world.model.requests
    assert first.tags == {"run": result.run, "agent": "main"} == second.tags
    assert (first.constraint, first.sampling, second.constraint) == (constraint, sampling, None)
    assert second.sampling == SamplingParams()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "z"},
        {"prompt": [Message("system", "x")]},
        {"constraint": Constraint("regex", "a*")},
        {"constraint": Constraint("json_schema", "{}")},
        {"sampling": SamplingParams(temperature=0.5, seed=3)},
        {"model": "other"},
    ],
)
def test_another_question_is_not_answered_by_the_record_of_the_first(board: Board, change: dict[str, Any]) -> None:
    async def main(context: Context, changed: dict[str, Any]) -> Any:
        return (await context.generate(**{"prompt": "x", "model": "one", **changed})).value

    async def other(context: Context, _: Any) -> Any:
        return await main(context, change)

    async def both() -> Any:
        runtime = Runtime(board, ScriptedModel(lambda prompt: prompt))
        result = await runtime.run(main, {})
        assert (await runtime.replay(result.run, main)).identical
        return await runtime.replay(result.run, other)

    report = asyncio.run(both())
    assert not report.identical and report.divergence is not None


def test_only_a_call_that_opted_in_is_answered_from_memory_and_only_by_the_same_kind_of_call(board: Board) -> None:
    async def main(context: Context, _: Any) -> None:
        await context.generate("x", memo=Memoise(), model="a")
        await context.generate("x", memo=Memoise(), model="b")
        await context.generate("x", memo=Memoise(), model="a")
        await context.generate("x", model="a")

    model = ScriptedModel(str)
    asyncio.run(Runtime(board, model).run(main))
    assert len(model.requests) == 3


# What failed or was refused.


class Down:
    """A model server that is down."""

    async def generate(self, *_: Any, **__: Any) -> Any:
        raise ServingError("the server is down")


def test_a_model_that_fails_says_so_and_a_replay_says_it_again(board: Board) -> None:
    said: list[str] = []

    async def body(context: Context) -> None:
        with pytest.raises(ModelFailed) as caught:
            await context.generate("x")
        said.append(caught.value.message)
        mail = await context.call_hidden("read_mail")
        hidden = await context.extract(mail[0]["body"], Fact)
        assert context.label == TRUSTED, "that it failed on a hidden text is hidden too"
        assert hidden.label == TRUSTED.join(MAIL)
        with pytest.raises(NoValue, match="the server is down"):
            await context.reveal(hidden)

    world = World()
    world.model = Down()  # type: ignore[assignment]
    done(board, body, world)
    assert len(said) == 2 and said[0] == said[1] and "the server is down" in said[0]


def test_a_model_that_may_not_learn_the_prompt_denies_in_a_replay_too(board: Board) -> None:
    said: list[str] = []

    async def body(context: Context) -> None:
        context.deliver(MAIL)
        with pytest.raises(
            PolicyDenied, match="main may not ask the model, by rule audience: the prompt would"
        ) as caught:
            await context.generate("x")
        said.append(caught.value.message)

    world = World()
    world.model.audience = PUBLIC  # type: ignore[attr-defined]
    done(board, body, world)
    assert len(said) == 2 and said[0] == said[1] and world.model.requests == []


def test_the_record_tells_what_an_endorser_let_through_and_what_it_refused(board: Board) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        for number in (0, 1):
            await context.endorse(mail[number]["sender"], "contact")

    done(board, body)
    bits = {"endorser": "contact", "bits": 2.0}
    assert steps(board, "endorse") == [
        {**bits, "value": "ann@example.org", "refused": None},
        {**bits, "value": None, "refused": "the endorser contact refused it"},
    ]


def test_an_endorsement_that_is_denied_leaves_no_word_that_it_was_given(board: Board) -> None:
    async def body(context: Context) -> None:
        mail = await context.call_hidden("read_mail")
        with pytest.raises(PolicyDenied) as caught:
            await context.endorse(mail[0]["sender"], "contact")
        assert caught.value.rule == "quota"
        with pytest.raises(PolicyDenied) as caught:
            await context.endorse(mail[0]["sender"], "ghost")
        assert caught.value.rule == "unknown-endorser"

    done(board, body, World(policy=read_policy(POLICY.replace("budget_bits = 24", "budget_bits = 1"))))
    assert steps(board, "endorse") == []
    found: list[Any] = [entry.value for entry in board.query(Predicate(topic_prefix="runs/", type="decision"))]
    told = [(one["action"], one["rule"]) for one in found if "endorse" in one["action"]]
    assert told == [("endorse by contact", "quota"), ("endorse by ghost", "unknown-endorser")]


# Of whom the answer is.


@pytest.mark.parametrize("action", ["endorse", "choose"])
def test_what_is_picked_from_a_private_directory_is_as_private_as_that(board: Board, action: str) -> None:
    world = World(answer=lambda _: {"value": "random"}, pages=["general"])

    async def main(context: Context, _: Any) -> None:
        page = (await context.call_hidden("browse"))[0]
        assert page.label.readers == PUBLIC
        picked = await getattr(context, action)(page, "channel")
        assert picked.label.readers == Readers.of(OWNER)
        assert picked.label.shaped_by == {OWNER, "web"}
        assert [request.label.readers for request in world.model.requests] == [Readers.of(OWNER)] * (
            action == "choose"
        ), "the question holds the directory"

    result = asyncio.run(world.runtime(board).run(main, label=OPEN))
    assert result.status == "done", result.failure


def test_what_nobody_could_read_is_a_secret_of_all_who_shaped_what_was_to_be_read(board: Board) -> None:
    world = World(answer=lambda _: "no object", pages=["general"])

    async def main(context: Context, _: Any) -> None:
        page = (await context.call_hidden("browse"))[0]
        chosen = await context.choose(page, "channel")
        assert chosen.label.shaped_by == {OWNER, "web"}
        assert chosen.label.readers == Readers.of(OWNER), "the question held the directory"
        missing = await context.extract((await context.call_hidden("browse"))[3], Fact)
        assert missing.label.influencers == {OWNER, "web"}

    result = asyncio.run(world.runtime(board).run(main, label=OPEN))
    assert result.status == "done", result.failure


# What is remembered.


@tool(effect=EffectClass.PURE, memo=Memoise(), source=BOTTOM)
def upper(what: str) -> str:
    return what.upper()


def remembered(board: Board) -> list[tuple[str, str]]:
    found: list[Any] = [entry.value for entry in board.query(Predicate(topic=topics.MEMO, type="memo"))]
    return [(body["kind"], body["name"]) for body in found if "answer" in body]


def test_what_is_remembered_says_whether_a_tool_or_a_model_answered(board: Board) -> None:
    async def main(context: Context, _: Any) -> None:
        await context.call("upper", what="x")
        await context.generate("x", memo=Memoise(), model="upper")
        await context.generate("x", memo=Memoise())

    asyncio.run(Runtime(board, ScriptedModel(str), tools=[upper]).run(main))
    assert sorted(remembered(board)) == [("call", "upper"), ("generate", ""), ("generate", "upper")]


def test_whoever_asks_with_another_label_of_an_argument_does_not_learn_that_it_was_asked(board: Board) -> None:
    async def main(context: Context, who: str) -> None:
        await context.call("upper", what=Labelled("x", Label.trusted(who, PUBLIC)))

    async def all_of_them() -> None:
        runtime = Runtime(board, ScriptedModel(str), tools=[upper])
        for who in ("user:ann", "user:bob", "user:ann"):
            await runtime.run(main, who)

    asyncio.run(all_of_them())
    assert len(remembered(board)) == 2


def test_a_replay_of_what_was_remembered_writes_nothing(board: Board) -> None:
    async def main(context: Context, _: Any) -> Any:
        return [(await context.call("upper", what="x")).value, (await context.generate("x", memo=Memoise())).value]

    async def forgotten() -> None:
        runtime = Runtime(board, ScriptedModel(lambda prompt: prompt), tools=[upper])
        result = await runtime.run(main)
        for entry in board.query(Predicate(topic=topics.MEMO, type="memo")):
            transaction = board.begin("test")
            transaction.delete(topics.MEMO, entry.key, label=entry.label)
            board.commit(transaction)
        head = board.head
        assert (await runtime.replay(result.run, main)).identical
        assert board.head == head

    asyncio.run(forgotten())


def test_the_record_of_a_remembered_call_says_what_was_called_and_with_what(board: Board) -> None:
    async def main(context: Context, _: Any) -> None:
        await context.call("upper", what="x")

    async def twice() -> None:
        runtime = Runtime(board, ScriptedModel(str), tools=[upper])
        for _ in range(2):
            await runtime.run(main)

    asyncio.run(twice())
    (step,) = [step for step in steps(board, "call") if "memo" in step]
    assert (step["tool"], step["arguments"], step["value"]) == ("upper", {"what": "x"}, "X")
