"""What a view keeps from a reader: every field that holds content names the label that says who may read it.

Addresses (topics, keys, names of agents and workflows), states and counts are no content: the holder of a server's
token sees that something happened, and not what was said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any, Final, TypeVar

from agentsys.blackboard.labels import Label, Readers

_CONTENT: Final = "content"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Content:
    by: str
    hidden: Any


def content(by: str = "label", hidden: Any = None) -> Mapping[str, Any]:
    """Return the metadata of a field that the label at the attribute ``by`` protects, and what stands in its place.

    Its class has a field ``withheld``, which says that something was taken out.
    """
    return {_CONTENT: _Content(by, hidden)}


def is_content(metadata: Mapping[str, Any]) -> bool:
    """Whether a field with this metadata is protected by a label."""
    return _CONTENT in metadata


def may_read(label: Label, reader: str) -> bool:
    """Whether ``reader`` may learn a value with this label."""
    return label.readers.permits(Readers.of(reader))


def withhold(view: T, reader: str) -> T:
    """Return ``view``, a dataclass or a tuple of them, without the content that its labels keep from ``reader``."""
    if isinstance(view, tuple):
        return type(view)([withhold(item, reader) for item in view])
    if not is_dataclass(view) or isinstance(view, type | Label):
        return view
    kept = {name: rule.hidden for name, rule in _protected(view) if not may_read(attrgetter(rule.by)(view), reader)}
    shown = {item.name: withhold(getattr(view, item.name), reader) for item in fields(view) if item.name not in kept}
    return replace(view, **shown | kept | ({"withheld": True} if kept else {}))


def _protected(view: Any) -> list[tuple[str, _Content]]:
    return [(item.name, item.metadata[_CONTENT]) for item in fields(view) if is_content(item.metadata)]
