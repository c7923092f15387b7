"""Tool calls for models that know no tool format: a prompt that lists the tools, a grammar, a parser.

A call is one JSON object ``{"name": …, "arguments": …}``. The grammar lets through nothing but a call of a listed tool
with arguments of its schema, or, where the model may choose, text that does not begin like one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentsys.errors import ServingError
from agentsys.serving.requests import Constraint

ToolMode = Literal["auto", "required", "none"]

_EMPTY: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
# White space that a small model may choose freely it may write for ever.
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}
_TEXT = r"/[^{\s][\s\S]*/"


class ToolChoiceError(ServingError):
    """A call is asked of a tool that was not given."""

    code = "AGS-0424"
    remedy = "Give the tool that the choice names, or choose auto or none."


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """A tool as the model sees it; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """The call that an answer is."""

    name: str
    arguments: dict[str, Any]


def choose(
    tools: Sequence[ToolFunction], mode: ToolMode = "auto", name: str | None = None
) -> tuple[tuple[ToolFunction, ...], bool]:
    """Return the tools that may be called and whether one must be; a ``name`` asks for that one, whatever ``mode``.

    Raises :class:`ToolChoiceError` when the call asked for has no tool.
    """
    if name is not None:
        named = tuple(tool for tool in tools if tool.name == name)
        if not named:
            raise ToolChoiceError(f"the tools hold no {name!r}.")
        return named[:1], True
    if mode == "required" and not tools:
        raise ToolChoiceError("a call is required, and there are no tools.")
    return (() if mode == "none" else tuple(tools)), mode == "required"


def instruction(tools: Sequence[ToolFunction], required: bool) -> str:
    """Return what the system message says of ``tools``; empty without any."""
    if not tools:
        return ""
    listed = "\n".join(
        json.dumps({"name": tool.name, "description": tool.description, "parameters": _parameters(tool)})
        for tool in tools
    )
    when = "Answer with one call" if required else "To call one, answer with nothing but"
    return f'You can call these tools:\n{listed}\n{when}: {{"name": "TOOL", "arguments": {{…}}}}'


def constraint(tools: Sequence[ToolFunction], required: bool, kinds: frozenset[str]) -> Constraint | None:
    """Return the grammar of an answer, as strict as an engine that takes ``kinds`` of constraints can hold."""
    if not tools:
        return None
    if "lark" in kinds:
        return Constraint("lark", _lark(tools, required))
    if not required or "json_schema" not in kinds:
        return None  # a JSON schema cannot say "or any text"
    calls = [_call_schema(tool) for tool in tools]
    return Constraint("json_schema", json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}))


def parse(text: str, tools: Sequence[ToolFunction]) -> ParsedCall | None:
    """Return the call that ``text`` is, or None if it is text or calls a tool not listed."""
    try:
        call = json.loads(text)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, LookupError, TypeError):
        return None
    if not isinstance(arguments, dict) or not any(tool.name == name for tool in tools):
        return None
    return ParsedCall(name, arguments)


def _lark(tools: Sequence[ToolFunction], required: bool) -> str:
    # Each schema stands for itself, so that its references to its own definitions hold.
    start = " | ".join([f"call_{number}" for number in range(len(tools))] + ([] if required else ["TEXT"]))
    lines = [f"start: {start}"]
    for number, tool in enumerate(tools):
        head = json.dumps(f'{{"name":{json.dumps(tool.name)},"arguments":')
        lines.append(f'call_{number}: {head} arguments_{number} "}}"')
        lines.append(f"arguments_{number}: %json {json.dumps(_parameters(tool) | _COMPACT)}")
    return "\n".join(lines if required else [*lines, f"TEXT: {_TEXT}"])


def _parameters(tool: ToolFunction) -> dict[str, Any]:
    # What a schema does not name, a function does not take; a small model would go on inventing it.
    return {"additionalProperties": False} | dict(tool.parameters) if tool.parameters else _EMPTY


def _call_schema(tool: ToolFunction) -> dict[str, Any]:
    properties = {"name": {"const": tool.name}, "arguments": _parameters(tool)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
