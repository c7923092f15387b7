"""What a planning model may say in one turn: call a tool, look at something hidden, or answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentsys.blackboard.entries import InvalidValue, Json, canonical_json
from agentsys.tools import Tool

FROM: Final = "from"
"""The key by which a reference is known among an argument's values."""


_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
"""What a foreign argument's name looks like, which a model that plans is shown."""


class TurnPart(BaseModel):
    """A part of a turn."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Reference(TurnPart):
    """A part of one hidden result, or of several; with ``ask``, what a quarantined model reads there."""

    source: str | tuple[str, ...] = Field(alias=FROM, description="the name of a hidden result, or a list of names")
    path: tuple[str | int, ...] = Field((), description="keys and positions that lead to the part")
    ask: str = Field("", description="a question that a reader without tools answers from the part")
    by: str = Field("", description="the endorser through whom it is read; default: the first that its place accepts")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class ToolCall(TurnPart):
    """A call; an argument is a constant, a reference, or a list or object of them."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Turn(TurnPart):
    """Exactly one of a call, a look at something hidden, and the answer."""

    call: ToolCall | None = None
    reveal: Reference | None = None
    answer: tuple[str | Reference, ...] | None = None


class BadTurn(ValueError):
    """A model said what is no turn."""


def read_turn(text: str) -> Turn:
    """Read what a model said. Raises :class:`BadTurn`."""
    try:
        turn = Turn.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        raise BadTurn(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    if sum(part is not None for part in (turn.call, turn.reveal, turn.answer)) != 1:
        raise BadTurn("give exactly one of call, reveal and answer")
    try:
        # On record they lie inside of a decision's question.
        canonical_json([[[] if turn.call is None else turn.call.arguments]])
    except InvalidValue as error:
        raise BadTurn(error.message) from error
    return turn


def as_reference(value: Any) -> Reference | None:
    """Return an argument's value as the reference that it is, if it is one. Raises :class:`BadTurn`."""
    if not isinstance(value, dict) or FROM not in value:
        return None
    try:
        return Reference.model_validate(value)
    except ValidationError as error:
        raise BadTurn(f"a reference: {error.errors(include_input=False)[0]['msg']}") from error


def turn_schema(tools: Sequence[Tool], *, may_reveal: bool) -> dict[str, Json]:
    """Return the JSON schema of a turn over ``tools``, which a model's answer is constrained to."""
    reference: Json = {"$ref": "#/$defs/reference"}
    definitions: dict[str, Any] = {
        "reference": {
            "type": "object",
            "properties": {
                FROM: {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                "path": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                "ask": {"type": "string"},
                "by": {"type": "string"},
            },
            "required": [FROM],
            "additionalProperties": False,
        }
    }
    calls = [_call_schema(tool, definitions) for tool in tools]
    span: Json = {"anyOf": [{"type": "string"}, reference]}
    options: list[Json] = [_object(answer={"type": "array", "items": span, "minItems": 1})]
    if calls:
        options.append(_object(call={"anyOf": calls}))
    if may_reveal:
        options.append(_object(reveal=reference))
    return {"anyOf": options, "$defs": definitions}


def argument_names(tool: Tool) -> list[str]:
    """Return the names of a tool's arguments; of a foreign server's, those that are names and no sentences."""
    names = tool.parameters.model_json_schema().get("properties", {})
    return [name for name in names if tool.own_words or _NAME.fullmatch(name)]


def _call_schema(tool: Tool, definitions: dict[str, Any]) -> Json:
    schema = tool.parameters.model_json_schema(ref_template=f"#/$defs/{tool.name}.{{model}}")
    definitions |= {f"{tool.name}.{name}": part for name, part in schema.pop("$defs", {}).items()}
    # A foreign server's schema may hold texts of its own choice, which the model must not be led to say.
    parts = schema.get("properties", {}) if tool.own_words else {name: {} for name in argument_names(tool)}
    properties = {name: _or_reference(part) for name, part in parts.items()}
    arguments: dict[str, Json] = {"type": "object", "properties": properties, "additionalProperties": False}
    if schema.get("additionalProperties") or not properties:
        arguments["additionalProperties"] = bool(schema.get("additionalProperties", not properties))
    arguments["required"] = [name for name in schema.get("required", []) if name in properties]
    return _object(tool={"const": tool.name}, arguments=arguments)


def _or_reference(part: dict[str, Any]) -> Json:
    reference: Json = {"$ref": "#/$defs/reference"}
    options: list[Json] = [part, reference]
    if part.get("type") == "array":
        items = part.get("items", {})
        options.append({"type": "array", "items": {"anyOf": [items, reference]}})
    return {"anyOf": options}


def _object(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
