"""Write-ahead effects: what a run intends to do to the outside world, and what is known of its outcome.

::

    intended ──► started ──► succeeded ──► compensated
                  │  ▲  └──► failed ─────► started (next attempt)
                  ▼  │
                 in_doubt ─► succeeded | failed | compensated

A crash leaves ``started`` without an outcome, under the epoch of the process that died. Another may restart only what
is harmless to repeat; anything else is asked about or becomes ``in_doubt``. What a living process started is its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from agentsys.blackboard.entries import Json, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.errors import BoardError


class EffectRefused(BoardError):
    """An effect cannot take the step asked of it."""

    code = "AGS-0216"
    remedy = "Look at the effect's state with `Board.effects`; settle one that is in doubt as succeeded or failed."


class EffectMismatch(BoardError):
    """An effect was planned twice under one id, with different contents."""

    code = "AGS-0217"
    remedy = "Derive the id (the idempotency key) from run, step, tool and arguments."


class EffectClass(StrEnum):
    """What repeating an effect would do."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    QUERYABLE = "queryable"
    COMPENSABLE = "compensable"
    IRREVERSIBLE = "irreversible"

    @property
    def repeatable(self) -> bool:
        """Whether a second execution under the same key changes nothing."""
        return self in (EffectClass.PURE, EffectClass.IDEMPOTENT)


class EffectState(StrEnum):
    INTENDED = "intended"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    COMPENSATED = "compensated"


@dataclass(frozen=True, slots=True)
class EffectIntent:
    """One planned effect. ``id`` is its idempotency key; ``label`` is that of the arguments."""

    id: str
    run: str | None
    step: str
    tool: str
    effect_class: EffectClass
    arguments: Json
    label: Label


@dataclass(frozen=True, slots=True)
class EffectChange:
    """A request to bring effect ``id`` into ``state``; ``result`` and ``label`` belong to an outcome."""

    id: str
    state: EffectState
    result: Json = None
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect after one of its steps: ``seq`` and ``at`` (Unix seconds) are of the commit that took the step.

    ``attempt`` counts the starts; ``epoch`` is the board's epoch at the last start (0 before it).
    """

    intent: EffectIntent
    state: EffectState
    attempt: int
    epoch: int
    result: Json
    result_label: Label | None
    seq: int
    at: float

    @property
    def id(self) -> str:
        return self.intent.id


_OUTCOMES: Final = frozenset({EffectState.SUCCEEDED, EffectState.FAILED, EffectState.IN_DOUBT})
_SETTLED: Final = frozenset({EffectState.SUCCEEDED, EffectState.FAILED})


def plan(existing: Effect | None, intent: EffectIntent, seq: int, at: float) -> Effect | None:
    """Return the intended effect, or ``None`` when exactly this intent is on record already.

    Raises :class:`EffectMismatch` when the id is taken by another intent.
    """
    if existing is None:
        return Effect(intent, EffectState.INTENDED, 0, 0, None, None, seq, at)
    if _content(existing.intent) != _content(intent):
        raise EffectMismatch(f"Effect {intent.id} is on record for {existing.intent.tool} with another content.")
    return None


def step(
    existing: Effect | None, change: EffectChange, epoch: int, alive: Callable[[int], bool], seq: int, at: float
) -> Effect:
    """Return ``existing`` after ``change``; raises :class:`EffectRefused` when its state does not allow it."""
    if existing is None:
        raise EffectRefused(f"Effect {change.id} was never planned.")
    if change.state is EffectState.STARTED:
        _check_start(existing, epoch, alive)
        return replace(
            existing, state=change.state, attempt=existing.attempt + 1, epoch=epoch, result=None, seq=seq, at=at
        )
    _check_outcome(existing, change.state, epoch, alive)
    return replace(existing, state=change.state, result=change.result, result_label=change.label, seq=seq, at=at)


def _check_start(effect: Effect, epoch: int, alive: Callable[[int], bool]) -> None:
    if effect.state in (EffectState.INTENDED, EffectState.FAILED):
        return
    orphaned = effect.state is EffectState.STARTED and not alive(effect.epoch)
    if (orphaned or effect.state is EffectState.IN_DOUBT) and effect.intent.effect_class.repeatable:
        return
    raise EffectRefused(
        f"Effect {effect.id} ({effect.intent.tool}, {effect.intent.effect_class}) is {effect.state} since attempt "
        f"{effect.attempt} in epoch {effect.epoch} and cannot be started in epoch {epoch}."
    )


def _check_outcome(effect: Effect, state: EffectState, epoch: int, alive: Callable[[int], bool]) -> None:
    if effect.state is EffectState.STARTED and state in _OUTCOMES:
        if effect.epoch != epoch and alive(effect.epoch):
            # Two that take up what a third left behind would else both settle it, and both do it again.
            raise EffectRefused(
                f"Effect {effect.id} ({effect.intent.tool}) was started by a live process, not this one."
            )
        return
    if effect.state is EffectState.IN_DOUBT and state in _SETTLED:
        return
    undone = effect.state in (EffectState.SUCCEEDED, EffectState.IN_DOUBT) and state is EffectState.COMPENSATED
    if undone and effect.intent.effect_class is EffectClass.COMPENSABLE:
        return
    raise EffectRefused(
        f"Effect {effect.id} ({effect.intent.tool}, {effect.intent.effect_class}) is {effect.state} and cannot become "
        f"{state}."
    )


def _content(intent: EffectIntent) -> tuple[object, ...]:
    return intent.run, intent.step, intent.tool, intent.effect_class, canonical_json(intent.arguments), intent.label
