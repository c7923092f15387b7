"""Merges: changes of an entry that commute with other writers', applied by the committer to whatever value is there.

The log's order is total, so each is a replicated data type's operation without its metadata: a counter, a set, a map
whose fields each belong to their last writer (Shapiro et al., "A comprehensive study of convergent and commutative
replicated data types", INRIA RR-7506, 2011).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentsys.blackboard.entries import Json, canonical_json, parse_canonical
from agentsys.errors import BoardError


class MergeMismatch(BoardError):
    """An entry holds no value of the kind that a merge changes."""

    code = "AGS-0221"
    remedy = "Merge into an entry of that kind, or replace the value with `put`."


@dataclass(frozen=True, slots=True)
class Add:
    """Change a counter, an integer, by ``amount``; an absent one counts as 0."""

    amount: int


@dataclass(frozen=True, slots=True)
class Insert:
    """Put ``items`` into a set: a list without equal members, in the order of their canonical JSON."""

    items: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Take ``items`` out of a set."""

    items: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class SetFields:
    """Set ``fields`` of a map; each field belongs to its last writer."""

    fields: tuple[tuple[str, Json], ...]


@dataclass(frozen=True, slots=True)
class UnsetFields:
    """Remove fields of a map by name."""

    names: tuple[str, ...]


Merge: TypeAlias = Add | Insert | Discard | SetFields | UnsetFields


def merged(value: Json, merge: Merge) -> Json:
    """Return ``value`` (``None`` where there is no entry) after ``merge``. Raises :class:`MergeMismatch`."""
    match merge:
        case Add(amount):
            if value is None or (isinstance(value, int) and not isinstance(value, bool)):
                return (value or 0) + amount
        case Insert(items) | Discard(items):
            if value is None or isinstance(value, list):
                return _changed_set(value or [], items, keep=isinstance(merge, Insert))
        case SetFields(fields):
            if value is None or isinstance(value, dict):
                return {**(value or {}), **dict(fields)}
        case UnsetFields(names):
            if value is None or isinstance(value, dict):
                return {name: item for name, item in (value or {}).items() if name not in names}
    raise MergeMismatch(f"{type(merge).__name__} cannot change a value of type {type(value).__name__}.")


def own_copy(merge: Merge, clean: Callable[[Json], Json] = lambda document: document) -> Merge:
    """Return ``merge`` with copies of what it holds, as whoever gave it may change that.

    ``clean`` takes out what must not be on record. Raises :class:`InvalidValue` and :class:`MergeMismatch` for one that
    could not be stored.
    """
    if isinstance(merge, Add) and (not isinstance(merge.amount, int) or isinstance(merge.amount, bool)):
        raise MergeMismatch(f"A counter changes by whole numbers, not by {merge.amount!r}.")
    document: Any = parse_canonical(canonical_json(clean(as_json(merge))))
    match merge:
        case Add(amount):
            return Add(amount)
        case SetFields():
            return SetFields(tuple(document[1].items()))
        case _:
            return type(merge)(tuple(document[1:]))


def as_json(merge: Merge) -> Json:
    """Return the merge as one JSON value."""
    match merge:
        case Add(amount):
            return ["add", amount]
        case Insert(items):
            return ["insert", *items]
        case Discard(items):
            return ["discard", *items]
        case SetFields(fields):
            return ["set", dict(fields)]
        case UnsetFields(names):
            return ["unset", *names]


def _changed_set(members: list[Json], items: tuple[Json, ...], *, keep: bool) -> Json:
    by_text = {canonical_json(member): member for member in members}
    for item in items:
        if keep:
            by_text[canonical_json(item)] = item
        else:
            by_text.pop(canonical_json(item), None)
    return [by_text[text] for text in sorted(by_text)]
