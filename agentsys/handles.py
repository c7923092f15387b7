"""Handles: values that an actor works with and does not see, so that they do not raise its control label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import BOTTOM, Label, join_all
from agentsys.errors import LabelError
from agentsys.paths import Path, at, covers, pattern_of, reaches_into


class NoValue(LabelError):
    """A handle stands for nothing: the call failed, nothing is at the place, or an endorser refused it.

    ``label`` is of the message: whoever gets it has learned something.
    """

    code = "AGS-0312"
    remedy = "Reveal the handle to see why, if what is seen may influence what follows."

    def __init__(self, message: str, label: Label) -> None:
        super().__init__(message)
        self.label = label


class HandleOpaque(LabelError):
    """Code tried to look at a hidden value without revealing it."""

    code = "AGS-0313"
    remedy = "Use `await context.reveal(handle)`, which raises the control label, or pass the handle on as it is."


@dataclass(frozen=True, slots=True)
class Hidden:
    """A value and the labels of its parts: ``fields`` maps patterns of places to labels, ``label`` is of all others.

    ``failure`` says why there is no value; it is as hidden as a value would be. ``sources`` are the versions of
    entries that it was made from.
    """

    value: Json
    label: Label
    fields: Mapping[tuple[str, ...], Label] = field(default_factory=dict)
    failure: str | None = None
    sources: tuple[EntryVersionRef, ...] = ()

    def own_label(self, path: Path) -> Label:
        """Return the label of what is at ``path`` without the fields inside it: that it is there, and its form."""
        around = [pattern for pattern in self.fields if covers(pattern, path)]
        longest = max(map(len, around), default=0)
        nearest = [self.fields[pattern] for pattern in around if len(pattern) == longest]
        return join_all(nearest) if nearest else self.label

    def label_at(self, path: Path) -> Label:
        """Return the label of everything at ``path``."""
        inside = [label for pattern, label in self.fields.items() if reaches_into(pattern, path)]
        return self.own_label(path).join(*inside)


class Handle:
    """An opaque name for a hidden value. ``handle[key]`` selects a part of it, whether there is one or not."""

    __slots__ = ("_hidden", "name", "path")

    def __init__(self, name: str, hidden: Hidden, path: Path = ()) -> None:
        self.name = name
        self.path = path
        _SLOT.__set__(self, hidden)

    @property
    def label(self) -> Label:
        """Who shaped what it stands for, and who may read it. That is known of every handle."""
        return hidden_of(self).label_at(self.path)

    def __getitem__(self, key: str | int) -> Handle:
        return Handle(self.name, hidden_of(self), (*self.path, key))

    def __str__(self) -> str:
        return "".join([self.name, *(f"[{key!r}]" for key in self.path)])

    def __repr__(self) -> str:
        return f"<Handle {self}>"

    def _opaque(self, *_: Any) -> NoReturn:
        raise HandleOpaque(f"{self} is hidden: its value, size and truth are not known here.")

    __bool__ = __len__ = __iter__ = __contains__ = __int__ = __float__ = __eq__ = __lt__ = __gt__ = _opaque
    __hash__ = object.__hash__
    __reduce__ = __reduce_ex__ = _opaque

    def __copy__(self) -> Handle:
        return self

    def __deepcopy__(self, _: Any) -> Handle:
        return self


_SLOT: Final = vars(Handle)["_hidden"]
# Taken from the class, so that no attribute leads to the value: a text that a model wrote may be used as a format.
delattr(Handle, "_hidden")


def hidden_of(handle: Handle) -> Hidden:
    """Return the value and the labels behind a handle; for the runtime's own use."""
    hidden: Hidden = _SLOT.__get__(handle)
    return hidden


def open_handle(handle: Handle) -> Json:
    """Return what a handle stands for; for the runtime's own use, after it decided. Raises :class:`NoValue`."""
    hidden, path = hidden_of(handle), handle.path
    if hidden.failure is not None:
        raise NoValue(f"{handle} stands for nothing: {hidden.failure}.", hidden.label_at(()))
    try:
        return at(hidden.value, path)
    except LookupError as error:
        raise NoValue(f"{handle} stands for nothing: {error}.", hidden.label_at(())) from error


def together(name: str, handles: Sequence[Handle]) -> Handle:
    """Return one handle for a list of what several stand for. Where one stands for nothing, so does the list."""
    labels: dict[tuple[str, ...], Label] = {(str(number),): handle.label for number, handle in enumerate(handles)}
    sources = tuple(source for handle in handles for source in hidden_of(handle).sources)
    try:
        hidden = Hidden([open_handle(handle) for handle in handles], BOTTOM, labels, sources=sources)
    except NoValue as nothing:
        label = join_all([nothing.label, *labels.values()])
        hidden = Hidden(None, label, failure=nothing.message, sources=sources)
    return Handle(name, hidden)


def shown(handle: Handle, below: Label) -> Any:
    """Return what a handle stands for, with handles in place of those parts that do not flow to ``below``.

    Raises :class:`NoValue`, where that it stands for nothing may be known.
    """
    if hidden_of(handle).failure is not None and not handle.label.flows_to(below):
        return handle
    return _shown(handle, open_handle(handle), below)


def _shown(handle: Handle, value: Json, below: Label) -> Any:
    if not hidden_of(handle).own_label(handle.path).flows_to(below):
        return handle
    if isinstance(value, dict):
        return {key: _shown(handle[key], item, below) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(handle[position], item, below) for position, item in enumerate(value)]
    return value


def patterns(fields: Mapping[str, Label]) -> dict[tuple[str, ...], Label]:
    """Return labels by pattern, from labels by a pattern's text."""
    return {pattern_of(text): label for text, label in fields.items()}
