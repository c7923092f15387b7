"""What changes between two policies, and whether the newer one lets through more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agentsys.policy.domains import Domain
from agentsys.policy.policy import Policy
from agentsys.policy.rules import EVERYONE, readers_of
from agentsys.policy.situations import Outcome, verdicts

_RANK: Final = {"deny": 0, "ask": 1, "allow": 2}
_HIGHEST: Final = re.compile(r"budget_bits|run_cost|tools\..+\.limits\.(run|hour)|endorsers\..+\.(maximum|many)")
_LOWEST: Final = re.compile(r"tools\..+\.cost|endorsers\..+\.(minimum|step)")
_MEMBERS: Final = re.compile(
    r"trusted|processors|open_topics|approvers|links|answer\.endorsers|domains\..+\.values|tools\..+\.hosts"
)
_INFLUENCERS: Final = re.compile(r"tools\.((?!\.arguments\.).)+\.(source|sources\..+|fields\..+)")
_READERS: Final = re.compile(r"tools\..+\.readers")
_LINKS: Final = re.compile(r"tools\..+\.arguments\..+\.links")
_GROUPS: Final = ("tools", "domains", "endorsers")


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

    @property
    def widens(self) -> bool:
        """Whether a bound is wider than before, a set of those who may something larger, or one of strangers smaller.

        Whatever the situation, and as far as both say something.
        """
        if self.place == "closed":
            return bool(self.before) and not self.after
        if _INFLUENCERS.fullmatch(self.place) or _READERS.fullmatch(self.place):
            return self.after is not None and self._counts_as_safer(self.after)
        if self.before is None:
            return False
        if _LINKS.fullmatch(self.place):
            return bool(self.before == "defang")
        if _HIGHEST.fullmatch(self.place):
            return self.after is None or self.after > self.before
        if _LOWEST.fullmatch(self.place):
            return self.after is not None and self.after < self.before
        return bool(_MEMBERS.fullmatch(self.place)) and (self.after is None or not set(self.before) >= set(self.after))

    def _counts_as_safer(self, now: Iterable[str]) -> bool:
        """Whether fewer strangers shape what a tool brings in, or more may read it; before, perhaps, as it declares."""
        if _READERS.fullmatch(self.place):
            return EVERYONE in now if self.before is None else not readers_of(self.before).permits(readers_of(now))
        return not now if self.before is None else not set(now) >= set(self.before)


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
    return _changes(_flat(old.canonical), _flat(new.canonical))


def widened(old: Policy, new: Policy) -> list[TextChange]:
    """Return the changes that let through more, and that the situations of :func:`verdict_changes` do not tell apart.

    Of tools, domains and endorsers those that both policies have: without the others, calls are decided otherwise.
    """
    gone = tuple(
        f"{group}.{name}." for group in _GROUPS for name in getattr(old, group) if name not in getattr(new, group)
    )
    vouched = {*_other_members(old, new), *_other_endorsed(old, new)}
    changes = _changes(_implied(old, new) | _flat(old.canonical), _implied(new, old) | _flat(new.canonical))
    return [
        change for change in changes if (change.widens or change.place in vouched) and not change.place.startswith(gone)
    ]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[TextChange]:
    return [
        TextChange(place, before.get(place), after.get(place))
        for place in sorted({*before, *after})
        if before.get(place) != after.get(place)
    ]


def _implied(policy: Policy, other: Policy) -> dict[str, Any]:
    """Return who shapes what ``other`` speaks of, where ``policy`` does not: a call by an argument's value, a part of
    a result."""
    implied: dict[str, Any] = {}
    for name, rule in policy.tools.items():
        if rule.source is not None:
            said = other.rule(name)
            places = [f"sources.{part}.{value}" for part, values in said.sources.items() for value in values]
            places += [f"fields.{pattern}" for pattern in said.fields]
            implied |= {f"tools.{name}.{place}": list(rule.source) for place in places}
    return implied


def _other_members(old: Policy, new: Policy) -> Iterator[str]:
    """Yield where directories found by a tool become others, of which nobody knows the members."""
    for name in old.domains.keys() & new.domains.keys():
        before, after = old.domains[name], new.domains[name]
        if after.tool is not None and (before.tool, before.path) != (after.tool, after.path):
            yield f"domains.{name}.{'path' if before.tool == after.tool else 'tool'}"


def _other_endorsed(old: Policy, new: Policy) -> Iterator[str]:
    """Yield where endorsers let through what they did not, as far as no bound of theirs says it."""
    for name in old.endorsers.keys() & new.endorsers.keys():
        before, after = old.endorsers[name], new.endorsers[name]
        parts = [part for part in ("type", "format", "as_text") if getattr(before, part) != getattr(after, part)]
        if before.type == after.type == "date":
            (first, last), (now_first, now_last) = before.span, after.span
            parts += ["earliest"] * (now_first < first) + ["latest"] * (now_last > last)
        if before.domain and after.domain and not _within(new.domains[after.domain], old.domains[before.domain]):
            parts.append("domain")
        yield from (f"endorsers.{name}.{part}" for part in parts)


def _within(after: Domain, before: Domain) -> bool:
    """Whether one directory surely lists no more than another."""
    same = (after.tool, after.path) == (before.tool, before.path)
    return same if after.tool is not None else before.tool is None and set(after.values) <= set(before.values)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {place: value}
    parts = [_flat(item, f"{place}.{key}" if place else str(key)) for key, item in value.items()]
    return {inner: item for part in parts for inner, item in part.items()}
