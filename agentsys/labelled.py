"""A value together with its label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from agentsys.blackboard.labels import Label, join_all
from agentsys.handles import Handle, open_handle

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labelled(Generic[T]):
    """A value and who shaped it, who may read it, how much it can carry."""

    value: T
    label: Label


def unwrap(value: Any) -> tuple[Any, list[Label]]:
    """Return ``value`` with every :class:`Labelled` and handle inside it replaced by its bare value, and their labels.

    Models and dataclasses that hold one become dictionaries; sets become lists in an order that is always the same.
    Raises :class:`~agentsys.handles.NoValue` for a handle that stands for nothing.
    """
    if isinstance(value, Handle):
        return open_handle(value), [value.label]
    if isinstance(value, Labelled):
        inner, labels = unwrap(value.value)
        return inner, [value.label, *labels]
    if isinstance(value, Mapping):
        pairs = [(unwrap(key), unwrap(item)) for key, item in value.items()]
        plain = {key: item for (key, _), (item, _) in pairs}
        return plain, _flatten(labels for pair in pairs for _, labels in pair)
    if isinstance(value, set | frozenset):
        # The order of a set changes from one process to the next, and a resumed run must hash to the same step.
        return unwrap(sorted(value, key=repr))
    if isinstance(value, list | tuple):
        items = [unwrap(item) for item in value]
        return [item for item, _ in items], _flatten(labels for _, labels in items)
    inner, labels = unwrap(_fields_of(value))
    return (inner, labels) if labels else (value, [])


def unwrap_arguments(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Label]]:
    """Return a call's arguments bare, and the labels of those that carry any."""
    parts = {name: unwrap(value) for name, value in arguments.items()}
    labels = {name: join_all(found) for name, (_, found) in parts.items() if found}
    return {name: value for name, (value, _) in parts.items()}, labels


def _fields_of(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def _flatten(groups: Iterable[list[Label]]) -> list[Label]:
    return [label for group in groups for label in group]
