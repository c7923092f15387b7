"""What the effects of the crash benchmark change: a file outside the board, a line for each time one was done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentsys.blackboard.effects import EffectClass
from agentsys.tools import Tool, tool

CLASSES: Final = (EffectClass.IDEMPOTENT, EffectClass.QUERYABLE, EffectClass.IRREVERSIBLE)


class World:
    """The file at ``path``; what was written by a process that died stays written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def act(self, mark: str) -> str:
        os.write(self._descriptor, f"{mark}\n".encode())
        return mark

    def done(self) -> list[str]:
        """Return the marks in order, one for each time."""
        return self._path.read_text(encoding="utf-8").split()

    def close(self) -> None:
        os.close(self._descriptor)


def tools(world: World) -> Mapping[EffectClass, Tool]:
    """Return a tool of each class that marks the world with the identity of its call."""

    def mark(idempotency_key: str) -> str:
        return world.act(idempotency_key)

    def ask(idempotency_key: str) -> str | None:
        return idempotency_key if idempotency_key in world.done() else None

    return {
        kind: tool(effect=kind, name=kind.value, query=ask if kind is EffectClass.QUERYABLE else None)(mark)
        for kind in CLASSES
    }
