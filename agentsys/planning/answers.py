"""Final answers as labelled spans: what the agent says itself, and what strangers say, shown as theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label, join_all
from agentsys.labelled import Labelled
from agentsys.policy.endorsers import PERSON
from agentsys.policy.links import defang
from agentsys.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of an answer: ``own`` says that it may stand as the agent's own words."""

    text: str
    label: Label
    own: bool

    @staticmethod
    def of(value: Json, label: Label, policy: Policy) -> Span:
        """Return a value as a span; in one that strangers shaped, links are inactive."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        own = policy.trusts(label, (*policy.answer.endorsers, PERSON))
        return Span(text if own else str(defang(text, policy.links)), label, own)

    def to_json(self) -> dict[str, Json]:
        return {"text": self.text, "label": self.label.to_json(), "own": self.own}


@dataclass(frozen=True, slots=True)
class Answer:
    """The spans of an answer, in order."""

    spans: tuple[Span, ...]

    @property
    def body(self) -> str:
        """What the agent says itself, with a number in brackets where something is attached."""
        numbers = iter(range(1, len(self.spans) + 1))
        return "".join(span.text if span.own else f"[{next(numbers)}]" for span in self.spans)

    @property
    def attached(self) -> tuple[Span, ...]:
        """What others say, in the order of their numbers."""
        return tuple(span for span in self.spans if not span.own)

    @property
    def label(self) -> Label:
        return join_all(span.label for span in self.spans)

    def labelled(self) -> Labelled[Json]:
        """Return the answer as an actor returns it: under the join of its spans' labels, each span with its own."""
        spans: Json = [span.to_json() for span in self.spans]
        return Labelled({"body": self.body, "spans": spans}, self.label)

    @staticmethod
    def from_json(document: Any) -> Answer:
        """Rebuild an answer from a run's value. Raises ``ValueError`` or ``KeyError`` for what is none."""
        spans: Sequence[Any] = document["spans"]
        return Answer(tuple(Span(span["text"], Label.from_json(span["label"]), span["own"]) for span in spans))
