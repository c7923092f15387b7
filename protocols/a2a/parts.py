"""A2A parts and JSON values: text is a string, one data part is its value, several parts are a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from a2a.types.a2a_pb2 import Part
from a2a.utils.errors import ContentTypeNotSupportedError
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct, Value

from agentsys.blackboard.entries import Json

TEXT: Final = "text/plain"
JSON: Final = "application/json"


def value_of(parts: Iterable[Part]) -> Json:
    """Return the value that ``parts`` hold.

    Raises ``ContentTypeNotSupportedError`` for bytes and for links, which are never followed.
    """
    values = [_value(part) for part in parts]
    if values and all(isinstance(value, str) for value in values):
        return "\n".join(map(str, values))
    return values[0] if len(values) == 1 else values


def parts_of(value: Json) -> list[Part]:
    """Return ``value`` as one part."""
    if isinstance(value, str):
        return [Part(text=value, media_type=TEXT)]
    return [Part(data=ParseDict(value, Value()), media_type=JSON)]


def plain(struct: Struct) -> dict[str, Any]:
    """Return a metadata struct as a dictionary."""
    document: dict[str, Any] = MessageToDict(struct)
    return document


def _value(part: Part) -> Json:
    kind = part.WhichOneof("content")
    if kind == "text":
        return part.text
    if kind == "data":
        return _whole(MessageToDict(part.data))
    raise ContentTypeNotSupportedError(f"A part holds {kind or 'nothing'}; text and data are understood.")


def _whole(value: Any) -> Json:
    """Return ``value`` with whole numbers as integers: protobuf knows only floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    document: Json = value
    return document
