"""Carrying out an allowed tool call as a write-ahead effect: started before it begins, its outcome after it ends."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect, EffectClass, EffectState
from agentsys.blackboard.entries import Json, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.cancellation import stray_cancellation_as_error
from agentsys.errors import AgentsysError, RunError
from agentsys.journal import RecordEnded, submit
from agentsys.labelled import Labelled, unwrap
from agentsys.memoisation import Turn
from agentsys.rounds import recordable
from agentsys.secrets import NO_SECRETS, Secrets
from agentsys.settling import to_be_redone
from agentsys.tools import Tool, ToolError, to_json

INTERRUPTED: Final = "the caller was cancelled"


class ToolFailed(RunError):
    """A tool raised an error."""

    code = "AGS-0630"
    remedy = "The tool's own message says why; catch ToolFailed in the agent to go on without the result."


class UnknownTool(RunError):
    """A run to be resumed or replayed needs a tool that is not registered."""

    code = "AGS-0632"
    remedy = "Register the tools that the run was started with."


class EffectInDoubt(RunError):
    """A call began and nobody knows whether it took effect."""

    code = "AGS-0631"
    remedy = "Find out what happened, then say it with `agentsys effects settle`; no such call is repeated unasked."


async def carry_out(
    board: Board,
    tool: Tool,
    effect: Effect,
    *,
    replaying: bool,
    turn: Turn | None = None,
    secrets: Secrets = NO_SECRETS,
) -> Effect:
    """Bring an intended effect to its outcome, unless the record has it already.

    An effect that was started and has no outcome belongs to a process that died, one that was interrupted to a caller
    that was cancelled: a repeatable one is done again under the same idempotency key, a queryable one is asked about,
    any other is in doubt. One that a person says never happened is made again.
    A result is kept for the question whose ``turn`` it is. No value of ``secrets`` is in what is recorded.
    """
    again = to_be_redone(effect)
    if effect.state not in (EffectState.INTENDED, EffectState.STARTED) and not _interrupted(effect) and not again:
        return effect
    if replaying:
        raise RecordEnded(f"The call {effect.intent.id} of {tool.name} has no recorded outcome.")
    if board.begun_by_the_living(effect):
        raise EffectInDoubt(
            f"The call {effect.intent.id} of {tool.name} was begun by a live process and has not ended."
        )
    if again or effect.state is EffectState.INTENDED or tool.effect_class.repeatable:
        return await _dispatch(board, tool, effect, secrets, turn)
    return await _recover(board, tool, effect, secrets)


def _interrupted(effect: Effect) -> bool:
    """Whether the caller was cancelled during the call, and what became of the call can be found out."""
    found_out = effect.intent.effect_class.repeatable or effect.intent.effect_class is EffectClass.QUERYABLE
    result: Any = effect.result
    return effect.state is EffectState.IN_DOUBT and found_out and result.get("error") == INTERRUPTED


def result_of(tool: Tool, effect: Effect) -> Labelled[Json]:
    """Return the result of a call that succeeded, also of one that was taken back since.

    Raises :class:`ToolFailed` and :class:`EffectInDoubt`.
    """
    result: Any = effect.result
    if "value" in result:
        return Labelled(result["value"], label_of(effect))
    reason = result["error"]
    if effect.state in (EffectState.IN_DOUBT, EffectState.COMPENSATED):
        raise EffectInDoubt(f"The call {effect.intent.id} of {tool.name} may or may not have taken effect: {reason}.")
    raise ToolFailed(f"{tool.name} failed: {reason}")


def label_of(effect: Effect) -> Label:
    """Return the label of what the outcome of a call tells its caller."""
    return effect.result_label or effect.intent.label


async def _recover(board: Board, tool: Tool, effect: Effect, secrets: Secrets) -> Effect:
    """Settle what a dead process or a cancelled caller left behind; a queryable call that never happened is made."""
    label = effect.intent.label
    if tool.effect_class is not EffectClass.QUERYABLE or tool.query is None:
        return await _finish(board, effect, "in_doubt", {"error": "the process died during the call"}, label)
    try:
        async with asyncio.timeout(tool.timeout):
            found = await asyncio.to_thread(tool.query, effect.id)
    except Exception as error:
        if effect.state is EffectState.IN_DOUBT:
            raise EffectInDoubt(
                f"Asking about the call {effect.id} of {tool.name} failed: {_reason(error, secrets)}."
            ) from error
        reason = f"the process died during the call, and asking about it failed: {_reason(error, secrets)}"
        return await _finish(board, effect, "in_doubt", {"error": reason}, _failure_label(tool, label))
    if found is None:
        return await _dispatch(board, tool, effect, secrets, never_happened=True)
    return await _conclude(board, tool, effect, found, secrets)


async def _dispatch(
    board: Board,
    tool: Tool,
    effect: Effect,
    secrets: Secrets,
    turn: Turn | None = None,
    *,
    never_happened: bool = False,
) -> Effect:
    key, arguments, label = effect.intent.id, effect.intent.arguments, effect.intent.label
    starting = board.begin("runtime", run=effect.intent.run)
    if never_happened:
        # In one commit with the new start: alone on record, this failure would be the call's outcome.
        starting.finish_effect(key, "failed", {"error": "never happened"}, label)
    starting.start_effect(key)
    await submit(board, starting)
    try:
        with stray_cancellation_as_error():
            returned = await tool.invoke(arguments if isinstance(arguments, dict) else {}, key, secrets)
    except asyncio.CancelledError:
        await _finish(board, effect, "in_doubt", {"error": INTERRUPTED}, label)
        raise
    except TimeoutError:
        state = "failed" if tool.effect_class is EffectClass.PURE else "in_doubt"
        return await _finish(board, effect, state, {"error": f"no answer within {tool.timeout} s"}, label)
    except Exception as error:
        unknown = isinstance(error, ToolError) and error.unknown and tool.effect_class is not EffectClass.PURE
        state = "in_doubt" if unknown else "failed"
        return await _finish(
            board, effect, state, {"error": _reason(error, secrets)}, _failure_label(tool, label, error)
        )
    return await _conclude(board, tool, effect, returned, secrets, turn)


async def _conclude(
    board: Board, tool: Tool, effect: Effect, returned: Any, secrets: Secrets, turn: Turn | None = None
) -> Effect:
    """Record the result of a call that was made."""
    label = effect.intent.label
    try:
        value, result_label = _labelled(tool, returned, label)
        result: Json = {"value": secrets.json(value)}
        canonical_json(result)
    except Exception as error:
        state = "failed" if tool.effect_class is EffectClass.PURE else "in_doubt"
        reason = f"the result cannot be recorded: {_reason(error, secrets)}"
        return await _finish(board, effect, state, {"error": reason}, _failure_label(tool, label))
    return await _finish(board, effect, "succeeded", result, result_label, turn)


def _reason(error: Exception, secrets: Secrets) -> str:
    said = str(error) if isinstance(error, AgentsysError) else f"{type(error).__name__}: {error}"
    # Before it is cut, which might cut a value in two.
    return recordable(secrets.text(said))


def _failure_label(tool: Tool, label: Label, error: Exception | None = None) -> Label:
    """Return the label of an error's message: it may quote what the tool read, so it is that of a result."""
    said = error.label if isinstance(error, ToolError) else None
    return _labelled(tool, None, label)[1].join(*([said] if said else []))


def _labelled(tool: Tool, returned: Any, label: Label) -> tuple[Json, Label]:
    """Return a tool's result as JSON, labelled with all that shaped it."""
    value, own = unwrap(returned)
    if tool.source is not None and not isinstance(returned, Labelled):
        # Labels inside a result speak for their own parts only.
        own = [*own, tool.source]
    return to_json(value), label.join(*own)


async def _finish(
    board: Board, effect: Effect, outcome: Any, result: Json, label: Label, turn: Turn | None = None
) -> Effect:
    finishing = board.begin("runtime", run=effect.intent.run)
    finishing.finish_effect(effect.id, outcome, result, label)
    if turn is not None and isinstance(result, dict):
        turn.keep(finishing, result["value"], label)
    return (await submit(board, finishing)).effects[-1]
