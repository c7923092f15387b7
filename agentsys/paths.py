"""Places inside JSON values: ``*.sender`` is the sender of every member of a list or mapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentsys.blackboard.entries import Json

Path = tuple[str | int, ...]

ANY: Final = "*"


def pattern_of(text: str) -> tuple[str, ...]:
    """Return the parts of a pattern; of ``""``, which is the whole value, none."""
    return tuple(text.split(".")) if text else ()


def covers(pattern: Sequence[str], path: Path) -> bool:
    """Whether ``path`` is at a place that ``pattern`` describes, or inside it."""
    return len(pattern) <= len(path) and _agree(pattern, path)


def reaches_into(pattern: Sequence[str], path: Path) -> bool:
    """Whether ``pattern`` describes a place strictly inside what is at ``path``."""
    return len(pattern) > len(path) and _agree(pattern, path)


def at(value: Json, path: Path) -> Json:
    """Return what is at ``path``; a number may stand as text. Raises ``LookupError`` that says where nothing is.

    Each place has one path: what is labelled by that path cannot be reached by another, such as ``-1``.
    """
    for position, key in enumerate(path):
        try:
            value = value[_position(key)] if isinstance(value, list) else value[str(key)]  # type: ignore[index]
        except (LookupError, TypeError, ValueError) as error:
            raise LookupError(f"nothing is at {'.'.join(map(str, path[: position + 1]))}") from error
    return value


def everywhere(value: Json, pattern: str) -> list[Json]:
    """Return what is at every place that ``pattern`` describes, in order."""
    found = [value]
    for key in pattern_of(pattern):
        found = [inner for outer in found for inner in _inside(outer, key)]
    return found


def _inside(value: Json, key: str) -> list[Json]:
    if key == ANY:
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    try:
        return [at(value, (key,))]
    except LookupError:
        return []


def _position(key: str | int) -> int:
    position = int(key)
    if position < 0 or str(position) != str(key):
        raise LookupError(key)
    return position


def _agree(pattern: Sequence[str], path: Path) -> bool:
    return all(part in (ANY, str(key)) for part, key in zip(pattern, path, strict=False))
