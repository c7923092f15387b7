"""The official clients, unchanged, against the real model on a real socket."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"


class Capital(BaseModel):
    """A country and its capital."""

    country: Literal["France", "Spain"]
    capital: Literal["Paris", "Madrid"]


class Trip(BaseModel):
    """A trip. A step writes nine tokens at most, of which eight are drafted: this takes more than four steps."""

    start: Literal["Lyon, where the Rhone and the Saone meet", "Paris, the capital of France, on the river Seine"]
    end: Literal["Porto, at the mouth of the Douro", "Madrid, the capital of Spain, on the river Manzanares"]


@tool
def weather(town: Literal["Paris", "Madrid"]) -> str:
    """Return the weather of a town."""
    return f"sunny in {town}"


@pytest.fixture(scope="module")
def official(real_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=real_url, api_key="unused") as client:
        yield client


@pytest.fixture(scope="module")
def langchain(real_url: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=real_url, api_key="unused", model=MODEL, temperature=0, max_tokens=40)


def ask(client: openai.OpenAI, question: str = QUESTION, **options):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=40, **options)


def test_openai_chats(official: openai.OpenAI) -> None:
    answer = ask(official)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.total_tokens > answer.usage.completion_tokens > 0


def test_openai_streams(official: openai.OpenAI) -> None:
    events = list(ask(official, stream=True, stream_options={"include_usage": True}))
    assert "Paris" in "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert len(events) > 5 and events[-1].usage.completion_tokens > 0


def test_openai_parses_a_schema(official: openai.OpenAI) -> None:
    parsed = official.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], response_format=Capital, temperature=0
    )
    assert parsed.choices[0].message.parsed == Capital(country="France", capital="Paris")


def test_openai_calls_a_tool(official: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"town": {"enum": ["Paris", "Madrid"]}}, "required": ["town"]}
    definition = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    answer = ask(official, "Weather in Madrid?", tools=[definition], tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "Madrid"})


def test_openai_reads_the_arguments_of_a_call_as_they_are_written(official: openai.OpenAI) -> None:
    tools = [openai.pydantic_function_tool(Trip)]
    question = {"role": "user", "content": "From Paris to Madrid."}
    options = {"model": MODEL, "messages": [question], "temperature": 0, "tools": tools}
    with official.chat.completions.stream(**options, tool_choice="required") as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        call = stream.get_final_completion().choices[0].message.tool_calls[0].function
    assert len(pieces) > 3 and "".join(piece.arguments_delta for piece in pieces) == call.arguments
    assert call.parsed_arguments == Trip.model_validate_json(call.arguments)


def test_openai_bends_an_answer_by_penalties_and_biases(official: openai.OpenAI) -> None:
    plain, penalised = ask(official, "Say ha ten times."), ask(official, "Say ha ten times.", frequency_penalty=2.0)
    assert plain.choices[0].message.content != penalised.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="99999"):
        ask(official, logit_bias={"99999": 1})


def test_openai_completes_text_and_takes_our_extensions(official: openai.OpenAI) -> None:
    answer = official.completions.create(
        model=MODEL,
        prompt="The capital of France is",
        max_tokens=4,
        temperature=0,
        extra_body={"deadline": 5, "workflow": "w", "priority": 3},
    )
    assert "Paris" in answer.choices[0].text


def test_openai_gets_log_probabilities_and_vectors(official: openai.OpenAI) -> None:
    answer = ask(official, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert answer.choices[0].message.content == "".join(token.token for token in tokens).removesuffix("<|im_end|>")
    # Greedy: the token taken is the likeliest, and probabilities are some.
    assert all(token.top_logprobs[0].token == token.token and token.logprob <= 0 for token in tokens)
    near, same, far = official.embeddings.create(model=MODEL, input=["a cat sat", "a cat sat", "law of 1873"]).data
    likeness = [sum(a * b for a, b in zip(near.embedding, other.embedding, strict=True)) for other in (same, far)]
    assert likeness[0] == pytest.approx(1.0, abs=1e-3) and likeness[1] < likeness[0]


async def test_langchain_chats_and_streams(langchain: ChatOpenAI) -> None:
    answer = await langchain.ainvoke(QUESTION)
    assert "Paris" in answer.content and answer.usage_metadata["output_tokens"] > 0
    pieces = [piece async for piece in langchain.astream(QUESTION)]
    assert "".join(piece.content for piece in pieces) == answer.content and len(pieces) > 5


def test_langchain_reads_the_arguments_of_a_call_as_they_are_written(langchain: ChatOpenAI) -> None:
    bound = langchain.bind_tools([Trip], tool_choice="Trip")
    pieces = list(bound.stream("From Paris to Madrid.", max_tokens=100))
    chunks = [chunk for piece in pieces for chunk in piece.tool_call_chunks]
    assert len(chunks) > 3 and [chunk["name"] for chunk in chunks] == ["Trip"] + [None] * (len(chunks) - 1)
    whole = functools.reduce(operator.add, pieces)
    [call] = whole.tool_calls
    assert call["args"] == json.loads("".join(chunk["args"] for chunk in chunks))
    assert Trip.model_validate(call["args"])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_fills_a_schema(langchain: ChatOpenAI, method: str) -> None:
    assert langchain.with_structured_output(Capital, method=method).invoke(QUESTION).country in ("France", "Spain")


def test_langchain_calls_a_tool_and_goes_on_with_its_result(langchain: ChatOpenAI) -> None:
    called = langchain.bind_tools([weather], tool_choice="weather").invoke("Weather in Madrid?")
    assert called.tool_calls[0]["args"] == {"town": "Madrid"}
    result = weather.invoke(called.tool_calls[0])
    answer = langchain.bind_tools([weather]).invoke([("user", "Weather in Madrid?"), called, result])
    assert answer.content or answer.tool_calls
