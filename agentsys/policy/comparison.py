"""What changes between two policies, and whether the newer one lets through more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agentsys.policy.policy import Policy
from agentsys.policy.situations import Outcome, verdicts

_RANK: Final = {"deny": 0, "ask": 1, "allow": 2}


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """A situation that is decided otherwise than before."""

    tool: str
    situation: str
    before: Outcome
    after: Outcome

    @property
    def direction(self) -> Literal["looser", "stricter", "other rule"]:
        difference = _RANK[self.after.verdict] - _RANK[self.before.verdict]
        return "looser" if difference > 0 else "stricter" if difference else "other rule"


@dataclass(frozen=True, slots=True)
class TextChange:
    """A place that says something else than before; ``None`` where it said, or says, nothing."""

    place: str
    before: Any
    after: Any


def verdict_changes(old: Policy, new: Policy) -> list[VerdictChange]:
    """Return the situations of all tools that the two policies decide otherwise."""
    changes = []
    for tool in sorted({*old.tools, *new.tools}):
        before, after = verdicts(old, tool, [new.rule(tool)]), verdicts(new, tool, [old.rule(tool)])
        for situation, was in sorted(before.items()):
            now = after[situation]
            if (was.verdict, was.rule) != (now.verdict, now.rule):
                changes.append(VerdictChange(tool, situation, was, now))
    return changes


def text_changes(old: Policy, new: Policy) -> list[TextChange]:
    """Return the places that say something else, tests left out."""
    before, after = _flat(old.canonical), _flat(new.canonical)
    places = sorted({*before, *after})
    return [
        TextChange(place, before.get(place), after.get(place))
        for place in places
        if before.get(place) != after.get(place)
    ]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {place: value}
    parts = [_flat(item, f"{place}.{key}" if place else str(key)) for key, item in value.items()]
    return {inner: item for part in parts for inner, item in part.items()}
