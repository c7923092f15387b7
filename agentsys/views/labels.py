"""Labels as fields of the views: the canonical JSON object on the wire, a :class:`Label` in Python."""

from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from agentsys.blackboard.labels import Label

_NAMES: Final = {"type": "array", "items": {"type": "string"}}
_SCHEMA: Final = {
    "type": "object",
    "description": "Readers null is everyone, capacity (bits) null is free text.",
    "required": ["influencers", "readers", "capacity"],
    "properties": {
        "influencers": _NAMES,
        "readers": {"anyOf": [_NAMES, {"type": "null"}]},
        "capacity": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "endorsements": {"type": "array", "description": "pairs of endorser and influencer", "items": _NAMES},
    },
}


def _read(data: Any) -> Label:
    return data if isinstance(data, Label) else Label.from_json(data)


ViewLabel = Annotated[
    Label,
    PlainValidator(_read, json_schema_input_type=dict[str, Any]),
    PlainSerializer(Label.to_json, return_type=dict[str, Any]),
    WithJsonSchema(_SCHEMA),
]


class WithLabel:
    """What the label of a node says in two words."""

    __slots__ = ()
    label: ViewLabel

    @property
    def confidential(self) -> bool:
        """Whether not everyone may read it."""
        return self.label.readers.members is not None

    @property
    def trusted(self) -> bool:
        """Whether people alone shaped it."""
        return all(name.startswith("user:") for name in self.label.shaped_by)
