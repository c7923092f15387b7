"""Tool calls over HTTP: with a scripted model, whose noise the grammar turns into calls."""

from __future__ import annotations

import itertools
import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.requests import Chunk, Constraint, FinishReason, Message
from agentsys.serving.server.answers import Answer
from agentsys.serving.server.call_reader import CallReader
from agentsys.serving.server.schemas import ChatCompletionBody
from agentsys.serving.server.tools import Toolbox, ToolChatFormat, conversation

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Ulm", "Bonn"]}, "when": {"$ref": "#/$defs/When"}},
            "required": ["town", "when"],
            "additionalProperties": False,
            "$defs": {"When": {"enum": ["today", "tomorrow"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def ask(client: openai.OpenAI, choice: Any, **options: Any) -> Any:
    return client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "hi"}],
        tools=[CLOCK, WEATHER],
        tool_choice=choice,
        **{"max_tokens": 100} | options,
    )


def put_together(deltas: list[Any]) -> list[list[str]]:
    """Return id, name and arguments of calls that came in pieces, by OpenAI's rules of who may say what when."""
    calls: list[list[str]] = []
    for delta in deltas:
        if delta.index == len(calls):
            assert delta.id and delta.type == "function" and delta.function.name and not delta.function.arguments
            calls.append([delta.id, delta.function.name, ""])
        else:
            assert delta.index == len(calls) - 1 and delta.id is delta.type is delta.function.name is None
            calls[-1][2] += delta.function.arguments
    return calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = ask(client, choice, temperature=1.0, seed=2, stream=stream)
    if stream:
        deltas = [event.choices[0] for event in answer]
        pieces = [call for delta in deltas for call in delta.delta.tool_calls or ()]
        assert len(pieces) > 3, "arguments come as they are written"
        [(_, name, written)] = put_together(pieces)
        assert deltas[-1].finish_reason == "tool_calls"
        assert not any(delta.delta.content for delta in deltas)
    else:
        call = answer.choices[0].message.tool_calls[0]
        assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
        name, written = call.function.name, call.function.arguments
        assert call.id
    arguments = json.loads(written)
    assert name == "weather"
    assert arguments["town"] in ("Ulm", "Bonn") and arguments["when"] in ("today", "tomorrow")


def test_a_required_call_is_of_one_of_the_tools_and_none_of_no_tool(client: openai.OpenAI) -> None:
    names = {
        ask(client, "required", temperature=1.5, seed=seed).choices[0].message.tool_calls[0].function.name
        for seed in range(4)
    }
    assert names <= {"clock", "weather"}
    assert ask(client, "none").choices[0].message.tool_calls is None


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_may_choose_writes_text_or_a_whole_call_streamed_alike(client: openai.OpenAI, seed: int) -> None:
    message = ask(client, "auto", temperature=1.5, seed=seed).choices[0].message
    deltas = [event.choices[0].delta for event in ask(client, "auto", temperature=1.5, seed=seed, stream=True)]
    streamed = "".join(delta.content or "" for delta in deltas)
    assert streamed == (message.content or "")
    assert bool(message.tool_calls) == any(delta.tool_calls for delta in deltas)


@pytest.mark.parametrize("seed", range(3))
def test_several_calls_where_the_client_asks_for_them(client: openai.OpenAI, seed: int) -> None:
    options = {"temperature": 1.5, "seed": seed, "parallel_tool_calls": True, "max_tokens": 500}
    choice = ask(client, "required", **options).choices[0]
    calls = [call.function for call in choice.message.tool_calls]
    assert 2 <= len(calls) <= 8 and {call.name for call in calls} <= {"clock", "weather"}
    assert all(json.loads(call.arguments)["town"] in ("Ulm", "Bonn") for call in calls if call.name == "weather")
    assert len({call.id for call in choice.message.tool_calls}) == len(calls)
    deltas = [event.choices[0] for event in ask(client, "required", **options, stream=True)]
    streamed = [call for delta in deltas for call in delta.delta.tool_calls or ()]
    found = put_together(streamed)
    assert [(name, arguments) for _, name, arguments in found] == [(call.name, call.arguments) for call in calls]
    assert len({call_id for call_id, _, _ in found}) == len(calls)
    assert deltas[-1].finish_reason == choice.finish_reason


@pytest.mark.parametrize("tokens", [20, 40, 60])
def test_a_call_that_was_cut_off_comes_as_far_as_it_came(client: openai.OpenAI, tokens: int) -> None:
    options = {"max_tokens": tokens, "temperature": 0}
    message = ask(client, "required", **options).choices[0].message
    deltas = [event.choices[0] for event in ask(client, "required", **options, stream=True)]
    found = put_together([call for delta in deltas for call in delta.delta.tool_calls or ()])
    assert [call[1:] for call in found] == [
        [call.function.name, call.function.arguments] for call in message.tool_calls or ()
    ]
    assert "".join(delta.delta.content or "" for delta in deltas) == (message.content or "")
    assert deltas[-1].finish_reason == "length"


ARGUMENTS = st.dictionaries(
    st.text(max_size=4), st.recursive(st.text(max_size=6) | st.integers(), lambda inner: st.lists(inner, max_size=2))
)


@given(
    calls=st.lists(st.tuples(st.sampled_from(["clock", 'wea"ther']), ARGUMENTS), min_size=1, max_size=3),
    places=st.lists(st.integers(0, 200), max_size=12),
    loose=st.booleans(),
)
def test_calls_cut_anywhere_are_read_alike(calls: list[Any], places: list[int], loose: bool) -> None:
    separators = (", ", ": ") if loose else (",", ":")
    texts = [json.dumps({"name": name, "arguments": given}, separators=separators) for name, given in calls]
    text, wholes = "\n".join(texts), {"\n".join(texts[:count]) for count in range(1, len(texts) + 1)}
    cuts = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    reader, deltas = CallReader({"clock", 'wea"ther'}), []
    for start, end in itertools.pairwise(cuts):
        assert reader.whole == (text[:start].strip() in wholes)
        deltas += reader.feed(text[start:end])
    assert reader.whole
    read = [call["function"] for call in reader.calls]
    assert [(call["name"], json.loads(call["arguments"])) for call in read] == calls
    for number, call in enumerate(read):
        mine = [delta["function"] for delta in deltas if delta["index"] == number]
        assert (mine[0]["name"], "".join(part["arguments"] for part in mine)) == (call["name"], call["arguments"])
        assert all("name" not in part for part in mine[1:])


def test_what_is_no_call_of_a_listed_tool_is_none() -> None:
    for text in ('{"name": "other", "arguments": {}}', '{"name": "clock", "arguments": []}', "text", '{"na', ""):
        reader = CallReader({"clock"})
        assert reader.feed(text) == [] and not reader.whole
    reader = CallReader({"clock"})
    assert len(reader.feed('{"name":"clock","arguments":{}} and more')) == 2 and not reader.whole


@pytest.mark.parametrize("holds", [False, True])
def test_without_a_grammar_a_call_is_held_back_until_it_is_one(holds: bool) -> None:
    toolbox = Toolbox.of(body(tools=[CLOCK]))
    assert toolbox is not None
    assert toolbox.holds(toolbox.constraint(frozenset({"lark"})))
    assert not toolbox.holds(None) and not toolbox.holds(Constraint("json_schema", '{"type": "object"}'))
    form = ToolChatFormat("m", toolbox=toolbox, holds=holds)
    parts: list[Any] = []
    for index, texts in enumerate(
        [('{"name":"clock","argu', 'ments":{', "}}"), ('{"name":"clock","argu', 'ments" are many')]
    ):
        answer = Answer()
        for text in texts:
            answer.add(Chunk(text))
            parts.append(form.piece(index, Chunk(text)))
        answer.add(Chunk("", finish_reason=FinishReason.STOP))
        parts.append(form.ending(index, answer))
    assert [bool(part) for part in parts[:3]] == [False, holds, holds]
    assert parts[3][-1]["finish_reason"] == "tool_calls" and len(parts[3]) == (1 if holds else 2)
    assert parts[4] == parts[5] == []
    assert parts[6][0]["delta"] == {"content": '{"name":"clock","arguments" are many'}
    assert parts[6][-1]["finish_reason"] == "stop"


def test_calls_that_were_cut_off_are_left_out_and_a_single_one_stays_text() -> None:
    toolbox = Toolbox.of(body(tools=[CLOCK], parallel_tool_calls=True))
    assert toolbox is not None
    call = '{"name":"clock","arguments":{}}'
    assert len(toolbox.calls(f"{call}\n{call}")) == 2
    assert len(toolbox.calls(f"{call}\n{call[:9]}")) == 1
    assert toolbox.calls(call[:9]) == toolbox.calls("text") == []
    single = Toolbox.of(body(tools=[CLOCK]))
    assert single is not None and single.calls(f"{call}\n{call}") == []


def test_impossible_choices_are_refused(client: openai.OpenAI) -> None:
    for choice, tools in [({"type": "function", "function": {"name": "x"}}, [CLOCK]), ("required", [])]:
        with pytest.raises(openai.BadRequestError) as caught:
            ask_with = client.chat.completions.create
            ask_with(model="scripted", messages=[{"role": "user", "content": "x"}], tools=tools, tool_choice=choice)
        assert caught.value.param == "tool_choice"


def body(**fields: Any) -> ChatCompletionBody:
    return ChatCompletionBody.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields})


def test_earlier_calls_and_results_become_text_that_any_template_takes() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    plain = conversation(body(messages=messages).messages, None)
    assert plain == [
        Message("user", "What time is it?"),
        Message("assistant", '{"name":"clock","arguments":{"zone": "UTC"}}'),
        Message("user", "Result of clock: 12:00"),
    ]


def test_the_tools_are_told_in_the_system_message_and_the_grammar_fits_the_engine() -> None:
    asked = body(tools=[CLOCK, WEATHER])
    toolbox = Toolbox.of(asked)
    assert toolbox is not None
    first = conversation(asked.messages, toolbox)[0]
    assert first.role == "system" and "The weather of a town." in first.content
    assert toolbox.constraint(frozenset({"json_schema"})) is None
    assert toolbox.constraint(frozenset({"json_schema", "lark"})).kind == "lark"
    required = Toolbox.of(body(tools=[CLOCK], tool_choice="required"))
    assert json.loads(required.constraint(frozenset({"json_schema"})).source)["required"] == ["name", "arguments"]
    assert toolbox.parse('{"name": "other", "arguments": {}}') is toolbox.parse("text") is None


def test_any_text_of_a_model_is_a_call_or_text() -> None:
    toolbox = Toolbox.of(body(tools=[CLOCK]))
    assert toolbox is not None
    for text in ("[" * 100_000, '{"name": ["clock"], "arguments": {}}', '{"name": {}, "arguments": {}}', "[]", "1"):
        assert toolbox.parse(text) is None
    call = toolbox.parse('{"name": "clock", "arguments": {"zone": "\\ud800 ü"}}')
    assert call is not None and call["function"]["arguments"] == '{"zone": "\\ud800 ü"}'
