"""A value together with its label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agentsys.blackboard.labels import Label

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labelled(Generic[T]):
    """A value and who shaped it, who may read it, how much it can carry."""

    value: T
    label: Label


def unwrap(value: Any) -> tuple[Any, list[Label]]:
    """Return ``value`` with every :class:`Labelled` inside it replaced by its bare value, and their labels."""
    if isinstance(value, Labelled):
        inner, labels = unwrap(value.value)
        return inner, [value.label, *labels]
    if isinstance(value, Mapping):
        pairs = {key: unwrap(item) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, _flatten(labels for _, labels in pairs.values())
    if isinstance(value, list | tuple):
        items = [unwrap(item) for item in value]
        return [item for item, _ in items], _flatten(labels for _, labels in items)
    return value, []


def _flatten(groups: Iterable[list[Label]]) -> list[Label]:
    return [label for group in groups for label in group]
