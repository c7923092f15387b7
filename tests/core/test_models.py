from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from pydantic import Field, SecretStr

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, Label, Readers
from agentsys.errors import ConfigurationError
from agentsys.models import ConstraintUnmet, LangChainModel, ModelFailed, as_model, audience_of, satisfies
from agentsys.runtime import Runtime
from agentsys.serving.requests import Chunk, Constraint, FinishReason, GenerateRequest, Message, SamplingParams
from agentsys.testing import ScriptedModel

EVENTS = {"Content-Type": "text/event-stream"}
DIGITS = Constraint("regex", "[0-9]+")


def scripted(*answers: str, audience: Readers = NOBODY) -> LangChainModel:
    return LangChainModel(GenericFakeChatModel(messages=iter(map(AIMessage, answers))), audience=audience)


def request(constraint: Constraint | None = None) -> GenerateRequest:
    return GenerateRequest([Message("system", "s"), Message("user", "u")], constraint=constraint, label=Label())


async def test_a_langchain_model_streams_and_answers():
    chunks: list[Chunk] = []
    generation = await scripted("some words here").generate(request(), on_chunk=chunks.append)
    assert generation.text == "some words here" == "".join(chunk.text for chunk in chunks)
    assert len(chunks) > 1


async def test_a_langchain_model_is_told_what_is_wanted_of_it_and_nothing_else():
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        choice = {"index": 0, "delta": {"content": "cut"}, "finish_reason": "length"}
        chunk = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return httpx.Response(200, text=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", headers=EVENTS)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    chat = ChatOpenAI(model="m", api_key=SecretStr("k"), http_async_client=client, temperature=0.5, max_retries=0)
    model = LangChainModel(chat, audience=NOBODY)
    wanted = SamplingParams(7, 0.25, 0.5, seed=3, stop=("x",), presence_penalty=0.5, frequency_penalty=1.0)
    generation = await model.generate(GenerateRequest("u", wanted))
    assert (generation.text, generation.finish_reason) == ("cut", FinishReason.LENGTH)
    await model.generate(GenerateRequest("u"))
    told, plain = asked
    assert told["max_completion_tokens"] == 7 and told["stop"] == ["x"]
    assert (told["temperature"], told["top_p"], told["seed"]) == (0.25, 0.5, 3)
    assert (told["presence_penalty"], told["frequency_penalty"]) == (0.5, 1.0)
    assert plain["temperature"] == 0.5 and not {"max_completion_tokens", "top_p", "seed", "stop"} & set(plain)


async def test_a_langchain_model_that_calls_a_field_otherwise_or_knows_none_is_asked():
    class Other(FakeListChatModel):
        most: int = Field(1, alias="max_tokens")

        async def _astream(self, *arguments: Any, **more: Any) -> AsyncIterator[ChatGenerationChunk]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=str(self.most)))

    request = GenerateRequest("u", SamplingParams(max_tokens=9, temperature=0.5))
    model = LangChainModel(Other(responses=[]), audience=NOBODY)
    assert (await model.generate(request)).text == "9"
    assert (await scripted("as ever").generate(request)).text == "as ever"


async def test_an_answer_outside_the_constraint_is_asked_for_again_and_then_refused():
    assert (await scripted("a few", "12").generate(request(DIGITS))).text == "12"
    with pytest.raises(ConstraintUnmet):
        await scripted("a", "b", "c", "12").generate(request(DIGITS))


@pytest.mark.parametrize(
    ("kind", "grammar", "good", "bad"),
    [
        ("regex", "[0-9]+", "42", "4x"),
        ("json_schema", '{"type": "array", "items": {"type": "integer"}}', "[1, 2]", '["a"]'),
        ("lark", 'start: "yes" | "no"', "yes", "maybe"),
    ],
)
def test_constraints_are_checked_on_the_finished_text(kind, grammar, good, bad):
    assert satisfies(Constraint(kind, grammar), good)
    assert not satisfies(Constraint(kind, grammar), bad)
    assert not satisfies(Constraint(kind, grammar), good[:-1] if kind != "regex" else "")


def test_a_wrong_grammar_is_an_error():
    with pytest.raises(ValueError, match="lark"):
        satisfies(Constraint("lark", "start: ("), "x")


def test_what_is_no_model_is_refused():
    with pytest.raises(ConfigurationError, match="audience"):
        as_model(GenericFakeChatModel(messages=iter([])))
    with pytest.raises(ConfigurationError, match="generate"):
        as_model("gpt")


async def test_a_langchain_model_works_behind_a_context():
    async def workflow(context, value):
        return (await context.generate(value)).value

    model = scripted("hello", audience=Readers.of("provider:x"))
    assert audience_of(model) == Readers.of("provider:x")
    with Board.open(":memory:") as board:
        allowed = Label.trusted(readers=Readers.of("user:owner", "provider:x"))
        assert (await Runtime(board, model).run(workflow, "hi", label=allowed)).value == "hello"
        assert (await Runtime(board, model).run(workflow, "hi")).status == "failed"


async def test_whatever_a_model_fails_with_is_on_record_with_what_the_agent_made_of_it():
    asked: list[str] = []

    def unlucky(prompt: str) -> str:
        asked.append(prompt)
        if prompt == "first":
            raise ConnectionError("the provider is gone")
        return "second answer"

    async def workflow(context, value):
        try:
            return (await context.generate("first")).value
        except ModelFailed as failed:
            assert (failed.failure.type, failed.failure.message) == ("ConnectionError", "the provider is gone")
            return (await context.generate("second")).value

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(unlucky), workflows=[workflow])
        result = await runtime.run("workflow", run_id="r")
        report = await runtime.replay("r")
    assert (result.value, asked) == ("second answer", ["first", "second"])
    assert (report.identical, report.complete) == (True, True), report.divergence
