"""Settling: a person's word on what became of a tool call, with who said it and why, as the call's outcome."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, Final, Literal, get_args

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect, EffectRefused, EffectState
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.errors import ConfigurationError
from agentsys.journal import submit

SettledAs = Literal["succeeded", "failed", "redo"]
"""``redo``: the call surely never took effect, and is made again when its run, or a fork of it, comes to it."""

SETTLED_AS: Final[tuple[SettledAs, ...]] = get_args(SettledAs)
OPEN: Final = (EffectState.IN_DOUBT, EffectState.STARTED)
"""States in which a call can be settled; a started one only where the process that made it is dead."""

INTERRUPTED: Final = "the caller was cancelled"
"""Why a call is in doubt of which no caller was told that it is."""

_REDO: Final = "redo"
_DOUBT: Final = "doubt"
NEVER_MADE: Final[dict[str, Json]] = {"error": "it never took effect", _REDO: True}
"""Outcome of a call that is to be made again."""


class UnknownEffect(EffectRefused):
    """No effect has this identifier."""

    code = "AGS-0250"
    remedy = "List what is in doubt with `agentsys effects list`, or with `Board.effects`."


async def settle(
    board: Board, effect: str, outcome: SettledAs, result: Json = None, *, by: str, note: str = ""
) -> Effect:
    """Record that ``by`` says what became of a call, and why; ``result`` is its result, or the reason of its failure.

    A run that was told of the doubt, and went on, keeps to that when resumed or replayed; its forks hear the word.
    Raises :class:`UnknownEffect`, and ``EffectRefused`` for a call that is not in doubt, or that a live process makes.
    """
    if outcome not in SETTLED_AS:
        raise ConfigurationError(f"A call cannot be settled as {outcome!r}.", remedy=f"Say {', '.join(SETTLED_AS)}.")
    found = await asyncio.to_thread(board.effect, effect)
    if found is None:
        raise UnknownEffect(f"The board has no effect {effect!r}.")
    if found.state not in OPEN:
        raise EffectRefused(f"Effect {effect} ({found.intent.tool}) is {found.state}, so there is nothing to settle.")
    known = found.intent.label.join(*([found.result_label] if found.result_label else []))
    transaction = board.begin(by, run=found.intent.run, at=found.seq)
    body = _outcome(outcome, result) | {"settled": {"by": by, "note": note, "at": time.time()}} | _doubt_of(found)
    state: Literal["succeeded", "failed"] = "succeeded" if outcome == "succeeded" else "failed"
    transaction.finish_effect(effect, state, body, known.join(Label.trusted(by)))
    return (await submit(board, transaction)).effects[-1]


def to_be_redone(effect: Effect) -> bool:
    """Whether a call surely never took effect, by a person's word or the runtime's, and is to be made again."""
    return effect.state is EffectState.FAILED and isinstance(effect.result, dict) and _REDO in effect.result


def as_told(effect: Effect, run: str) -> Effect:
    """Return a call as ``run`` knows it: its own, if it was told of a doubt before that was settled, as in doubt."""
    doubt: Any = effect.result.get(_DOUBT) if isinstance(effect.result, dict) else None
    if doubt is None or effect.intent.run != run:
        return effect
    told, label = {"error": doubt["error"]}, Label.from_json(doubt["label"])
    return replace(effect, state=EffectState.IN_DOUBT, result=told, result_label=label)


def settled_by(effect: Effect) -> dict[str, Any] | None:
    """Return who settled a call, why and when (``by``, ``note``, ``at`` in unix seconds), if somebody did."""
    return effect.result.get("settled") if isinstance(effect.result, dict) else None


def _outcome(outcome: SettledAs, result: Json) -> dict[str, Json]:
    if outcome == "succeeded":
        return {"value": result}
    if outcome == "failed":
        return {"error": "it did not take effect" if result is None else str(result)}
    return NEVER_MADE


def _doubt_of(effect: Effect) -> dict[str, Json]:
    """Return what is kept of the doubt in which a caller was left."""
    result: Any = effect.result
    if effect.state is not EffectState.IN_DOUBT or result["error"] == INTERRUPTED:
        return {}
    label = effect.result_label or effect.intent.label
    return {_DOUBT: {"error": result["error"], "label": label.to_json()}}
