from __future__ import annotations

import json

import llguidance
import pytest

from agentsys.serving.tool_calling import (
    ParsedCall,
    ToolChoiceError,
    ToolFunction,
    choose,
    constraint,
    instruction,
    parse,
)

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOLS = (ToolFunction("double", "Doubles.", NUMBER), ToolFunction("now", "Tells the time.", {}))
ALL = frozenset({"json_schema", "lark", "regex"})


def test_a_choice_leaves_the_tools_that_may_be_called():
    assert choose(TOOLS) == (TOOLS, False)
    assert choose(TOOLS, "required") == (TOOLS, True)
    assert choose(TOOLS, "none") == ((), False)
    assert choose(TOOLS, name="now") == (TOOLS[1:], True)


def test_a_call_of_no_tool_cannot_be_asked_for():
    with pytest.raises(ToolChoiceError, match="'absent'"):
        choose(TOOLS, name="absent")
    with pytest.raises(ToolChoiceError, match="required"):
        choose((), "required")


def test_the_instruction_lists_the_tools():
    assert '"double"' in instruction(TOOLS, False)
    assert instruction((), False) == ""


@pytest.mark.parametrize("required", [True, False])
def test_the_grammar_is_valid(required: bool):
    grammar = constraint(TOOLS, required, ALL)
    assert grammar is not None
    assert ("TEXT" in grammar.source) is not required
    assert not llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_lark(grammar.source))


def test_engines_without_lark_hold_required_calls_only():
    schema = constraint(TOOLS, True, frozenset({"json_schema"}))
    assert schema is not None
    assert len(json.loads(schema.source)["anyOf"]) == 2
    assert constraint(TOOLS, False, frozenset({"json_schema"})) is None
    assert constraint((), True, ALL) is None


def test_only_calls_of_listed_tools_are_calls():
    assert parse('{"name":"double","arguments":{"n":2}}', TOOLS) == ParsedCall("double", {"n": 2})
    for text in ("four", "[]", '{"name":"absent","arguments":{}}', '{"name":"now","arguments":[]}', '{"name":"now"}'):
        assert parse(text, TOOLS) is None
