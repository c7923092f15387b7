"""Predicates: the closed form in which sets of entries are read, watched and validated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentsys.blackboard.entries import Entry, Json, canonical_json, parse_canonical
from agentsys.blackboard.payloads import is_erased


@dataclass(frozen=True, eq=False)
class Predicate:
    """A conjunction of conditions on one entry; what is left out is not asked.

    ``key_from`` is inclusive and ``key_to`` exclusive. ``equals`` compares top-level fields of an object value by
    their JSON text, so ``1``, ``1.0`` and ``true`` differ.
    """

    topic: str | None = None
    topic_prefix: str | None = None
    type: str | None = None
    run: str | None = None
    key_from: str | None = None
    key_to: str | None = None
    equals: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The texts are compared for every candidate entry, so they are computed once.
        texts = {name: canonical_json(wanted) for name, wanted in self.equals.items()}
        object.__setattr__(self, "_texts", texts)
        # Whoever gave it may change it, and other processes may not know its kind.
        object.__setattr__(self, "equals", {name: parse_canonical(text) for name, text in texts.items()})
        object.__setattr__(self, "_text", canonical_json(self.to_json()))

    def __eq__(self, other: object) -> bool:
        # Python holds 1, 1.0 and True for equal; a predicate does not.
        return isinstance(other, Predicate) and self.__dict__["_text"] == other.__dict__["_text"]

    def __hash__(self) -> int:
        return hash(self.__dict__["_text"])

    def covers(self, entry: Entry) -> bool:
        """Whether address, type and run of ``entry`` fit, whatever its value is and even if it is a deletion."""
        return (
            (self.type is None or entry.type == self.type)
            and (self.run is None or entry.run == self.run)
            and self.reaches(entry.topic, entry.key)
        )

    def reaches(self, topic: str, key: str) -> bool:
        """Whether some entry at this address could match."""
        return (
            (self.topic is None or topic == self.topic)
            and (self.topic_prefix is None or topic.startswith(self.topic_prefix))
            and (self.key_from is None or key >= self.key_from)
            and (self.key_to is None or key < self.key_to)
        )

    def matches(self, entry: Entry) -> bool:
        """Whether ``entry`` exists (is no deletion) and fulfils every condition, as one that was erased may have."""
        return not entry.deleted and self.covers(entry) and self._equals(entry.value)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object :meth:`from_json` reads; conditions not asked are left out."""
        conditions = {
            "topic": self.topic,
            "topic_prefix": self.topic_prefix,
            "type": self.type,
            "run": self.run,
            "key_from": self.key_from,
            "key_to": self.key_to,
            "equals": dict(self.equals) or None,
        }
        return {name: value for name, value in conditions.items() if value is not None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Predicate":
        """Rebuild a predicate; raises ``TypeError`` for a condition that does not exist."""
        return Predicate(**data)

    def _equals(self, value: Json) -> bool:
        texts: dict[str, str] = self.__dict__["_texts"]
        if not texts or is_erased(value):
            return True
        return isinstance(value, dict) and all(
            name in value and canonical_json(value[name]) == text for name, text in texts.items()
        )
