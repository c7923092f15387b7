"""Requests to the leader and its answers as JSON: what crosses machines must not be able to run code there.

Numbers, texts, ``None`` and lists stand for themselves; all else is an object that names its kind. Only the classes
listed here are ever built.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from agentsys.blackboard import commits, conflicts, effects, entries, labels, merges, predicates
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.rows import label_from_text, label_to_text
from agentsys.blackboard.storage import StorageFailed
from agentsys.errors import AgentsysError

_RECORDS: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        commits.CommitRequest,
        commits.Commit,
        commits.CursorMove,
        commits.Write,
        entries.Entry,
        entries.EntryVersionRef,
        entries.Endorsement,
        labels.Readers,
        predicates.Predicate,
        effects.EffectIntent,
        effects.EffectChange,
        effects.Effect,
        conflicts.KeyConflict,
        conflicts.PredicateConflict,
        conflicts.CursorConflict,
        merges.Add,
        merges.Insert,
        merges.Discard,
        merges.SetFields,
        merges.UnsetFields,
    )
}
_TEXTS: Final[dict[str, Callable[[str], object]]] = {
    "Label": label_from_text,
    "EffectClass": effects.EffectClass,
    "EffectState": effects.EffectState,
}


def to_text(value: object) -> str:
    """Return the JSON text of a request, a commit or an error."""
    return json.dumps(_encoded(value), separators=(",", ":"), ensure_ascii=False)


def from_text(text: str) -> Any:
    """Return what :func:`to_text` was given, equal in value; raises ``ValueError`` and ``KeyError`` for other texts."""
    return _decoded(json.loads(text))


def _encoded(value: object) -> object:
    kind = type(value).__name__
    # A member of an enumeration of the user's goes as its value: the other machine need not have its class.
    if value is None or (isinstance(value, (bool, int, float, str)) and kind not in _TEXTS):
        return value
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, (tuple, frozenset)):
        return {kind: [_encoded(item) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    if isinstance(value, labels.Label):
        # Most of a request's labels are equal, and their texts are kept.
        return {kind: label_to_text(value)}
    if kind in _TEXTS:
        return {kind: str(value)}
    if isinstance(value, Conflict):
        return {kind: [value.tx_id, _encoded(value.items)]}
    if isinstance(value, AgentsysError):
        return {"error": [value.code, value.message]}
    if kind not in _RECORDS or not is_dataclass(value):
        raise TypeError(f"{kind} cannot be sent to another machine")
    return {kind: [_encoded(getattr(value, field.name)) for field in fields(value)]}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in _TEXTS:
        return _TEXTS[kind](content)
    parts = _decoded(content)
    if kind == "tuple":
        return tuple(parts)
    if kind == "frozenset":
        return frozenset(parts)
    if kind == "dict":
        return dict(parts)
    if kind == "Conflict":
        return Conflict(*parts)
    if kind == "error":
        return _error(*parts)
    return _RECORDS[kind](*parts)


def _error(code: str, message: str) -> AgentsysError:
    kinds: list[type[AgentsysError]] = [AgentsysError]
    while kinds:
        kind = kinds.pop()
        # One that is built from more than a message cannot be built here.
        if kind.code == code and kind.__init__ is AgentsysError.__init__:
            return kind(message)
        kinds += kind.__subclasses__()
    return StorageFailed(f"{code}: {message}")
