"""A value together with its label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from agentsys.blackboard.entries import EntryVersionRef
from agentsys.blackboard.labels import Label, join_all
from agentsys.handles import Handle, NoValue, hidden_of, open_handle

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labelled(Generic[T]):
    """A value and who shaped it, who may read it, how much it can carry."""

    value: T
    label: Label


@dataclass(frozen=True, slots=True)
class Given:
    """A call's ``arguments`` bare, and the ``labels`` of those that carry any.

    ``nothing`` is why there is no value for one of them, which stands as null. ``sources`` are the versions of entries
    that what handles among them stand for was made from.
    """

    arguments: dict[str, Any]
    labels: dict[str, Label]
    nothing: NoValue | None = None
    sources: Sequence[EntryVersionRef] = ()

    def raised(self, label: Label) -> Label:
        """Return ``label`` raised by those of the arguments."""
        return label.join(*self.labels.values()) if self.labels else label

    @property
    def fault(self) -> str | None:
        return None if self.nothing is None else self.nothing.message


def unwrap(value: Any, opened: Callable[[Handle], Any] = open_handle) -> tuple[Any, list[Label]]:
    """Return ``value`` with every :class:`Labelled` and handle inside it replaced by its bare value, and their labels.

    Models and dataclasses that hold one become dictionaries; sets become lists in an order that is always the same.
    ``opened`` says what a handle stands for. Raises :class:`~agentsys.handles.NoValue` where that is nothing.
    """
    if isinstance(value, Handle):
        return opened(value), [value.label]
    if isinstance(value, Labelled):
        inner, labels = unwrap(value.value, opened)
        return inner, [value.label, *labels]
    if isinstance(value, Mapping):
        pairs = [(unwrap(key, opened), unwrap(item, opened)) for key, item in value.items()]
        plain = {key: item for (key, _), (item, _) in pairs}
        return plain, _flatten(labels for pair in pairs for _, labels in pair)
    if isinstance(value, set | frozenset):
        # The order of a set changes from one process to the next, and a resumed run must hash to the same step.
        return unwrap(sorted(value, key=repr), opened)
    if isinstance(value, list | tuple):
        items = [unwrap(item, opened) for item in value]
        return [item for item, _ in items], _flatten(labels for _, labels in items)
    inner, labels = unwrap(_fields_of(value), opened)
    return (inner, labels) if labels else (value, [])


def sources_of(value: Any) -> list[EntryVersionRef]:
    """Return the versions of entries that what the handles inside a value stand for was made from."""
    found: list[EntryVersionRef] = []
    unwrap(value, lambda handle: found.extend(hidden_of(handle).sources))
    return found


def unwrap_arguments(arguments: dict[str, Any]) -> Given:
    """Return a call's arguments bare, the labels of those that carry any, and why one of them stands for nothing."""
    plain, labels, nothing = dict[str, Any](), dict[str, Label](), None
    for name, value in arguments.items():
        try:
            plain[name], found = unwrap(value)
        except NoValue as raised:
            plain[name], nothing = None, nothing or raised
            found = [raised.label, *unwrap(value, lambda _: None)[1]]
        if found:
            labels[name] = join_all(found)
    return Given(plain, labels, nothing, sources_of(arguments))


def _fields_of(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def _flatten(groups: Iterable[list[Label]]) -> list[Label]:
    return [label for group in groups for label in group]
