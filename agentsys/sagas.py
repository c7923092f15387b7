"""Compensation: what takes back a call that was made, as a write-ahead effect of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pydantic import ValidationError

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect, EffectIntent, EffectState
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.journal import submit
from agentsys.tool_calls import ToolFailed
from agentsys.tools import Tool


class MadeCall(NamedTuple):
    """A compensable call: the key of its step, its tool, its effect."""

    step: str
    tool: Tool
    effect: str

    @property
    def position(self) -> int:
        """Where its step stands among those of its actor."""
        return int(self.step.rpartition(":")[2])


class Saga:
    """The compensable calls made in one block of an actor's code, and whether any are under way there."""

    def __init__(self) -> None:
        self._made: list[MadeCall] = []
        self._under_way = 0
        self._still = asyncio.Event()
        self._still.set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a call, or a saga inside this one, as under way."""
        self._under_way += 1
        self._still.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._still.set()

    def add(self, *made: MadeCall) -> None:
        self._made.extend(made)

    async def calls(self) -> list[MadeCall]:
        """Return the calls in the order in which they were begun, once none is under way: it may yet be made."""
        await self._still.wait()
        return sorted(self._made, key=lambda call: call.position)


def undoing_arguments(made: Effect, undo: Tool) -> dict[str, Json]:
    """Return the arguments of the call that takes ``made`` back. Raises :class:`~agentsys.tool_calls.ToolFailed`."""
    given: dict[str, Any] = dict(made.intent.arguments) if isinstance(made.intent.arguments, dict) else {}
    if isinstance(made.result, dict) and "value" in made.result:
        # On record also once it was taken back, as where a run is repeated.
        given["result"] = made.result["value"]
    try:
        return undo.arguments({name: given.get(name) for name in undo.parameters.model_fields if name in given})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise ToolFailed(f"{undo.name} cannot take back the call {made.id}: {faults}") from error


def compensation(
    identity: str, step: str, made: Effect, undo: Tool, arguments: dict[str, Json], control: Label
) -> EffectIntent:
    """Return the intent that takes ``made`` back; ``control`` is the label of who decided to."""
    intent = made.intent
    label = intent.label.join(control, *([made.result_label] if made.result_label else []))
    return EffectIntent(identity, intent.run, step, undo.name, undo.effect_class, arguments, label)


async def note_compensated(board: Board, effect: str) -> None:
    """Put on record that an effect was taken back, once; what its call returned stays on record."""
    made = await asyncio.to_thread(board.effect, effect)
    if made is not None and made.state in (EffectState.SUCCEEDED, EffectState.IN_DOUBT):
        transaction = board.begin("runtime", run=made.intent.run, at=made.seq)
        transaction.finish_effect(effect, "compensated", made.result, made.result_label or made.intent.label)
        await submit(board, transaction)
