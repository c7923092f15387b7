"""Carrying out an allowed tool call as a write-ahead effect: started before it begins, its outcome after it ends."""

from __future__ import annotations

import asyncio
from typing import Any

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect, EffectClass, EffectState
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.errors import AgentsysError, RunError
from agentsys.journal import RecordEnded, submit
from agentsys.labelled import Labelled, unwrap
from agentsys.tools import Tool, to_json


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
    remedy = "Find out what happened, then tell the board with `Runtime.settle`; the runtime never repeats such a call."


async def carry_out(board: Board, tool: Tool, effect: Effect, *, replaying: bool) -> Effect:
    """Bring an intended effect to its outcome, unless the record has it already.

    An effect that was started and has no outcome belongs to a process that died: a repeatable one is done again under
    the same idempotency key, a queryable one is asked about, any other is in doubt.
    """
    if replaying and effect.state in (EffectState.INTENDED, EffectState.STARTED):
        raise RecordEnded(f"The call {effect.intent.id} of {tool.name} has no recorded outcome.")
    if effect.state is EffectState.STARTED and not tool.effect_class.repeatable:
        return await _recover(board, tool, effect)
    if effect.state in (EffectState.INTENDED, EffectState.STARTED):
        return await _dispatch(board, tool, effect)
    return effect


def result_of(tool: Tool, effect: Effect) -> Labelled[Json]:
    """Return the result of a call that succeeded. Raises :class:`ToolFailed` and :class:`EffectInDoubt`."""
    result: Any = effect.result
    if effect.state is EffectState.SUCCEEDED:
        return Labelled(result["value"], label_of(effect))
    reason = result["error"]
    if effect.state is EffectState.IN_DOUBT:
        raise EffectInDoubt(f"The call {effect.intent.id} of {tool.name} may or may not have taken effect: {reason}.")
    raise ToolFailed(f"{tool.name} failed: {reason}")


def label_of(effect: Effect) -> Label:
    """Return the label of what the outcome of a call tells its caller."""
    return effect.result_label or effect.intent.label


async def _recover(board: Board, tool: Tool, effect: Effect) -> Effect:
    """Settle what a dead process left behind; a queryable call that never happened is made now."""
    key, label = effect.intent.id, effect.intent.label
    if tool.effect_class is not EffectClass.QUERYABLE or tool.query is None:
        return await _finish(board, effect, "in_doubt", {"error": "the process died during the call"}, label)
    found = await asyncio.to_thread(tool.query, key)
    if found is None:
        return await _dispatch(board, tool, await _finish(board, effect, "failed", {"error": "never happened"}, label))
    value, result_label = _labelled(tool, found, label)
    return await _finish(board, effect, "succeeded", {"value": value}, result_label)


async def _dispatch(board: Board, tool: Tool, effect: Effect) -> Effect:
    key, arguments, label = effect.intent.id, effect.intent.arguments, effect.intent.label
    starting = board.begin("runtime", run=effect.intent.run)
    starting.start_effect(key)
    await submit(board, starting)
    try:
        returned = await tool.invoke(arguments if isinstance(arguments, dict) else {}, key)
        value, result_label = _labelled(tool, returned, label)
    except (TimeoutError, asyncio.CancelledError) as error:
        state = "failed" if tool.effect_class is EffectClass.PURE else "in_doubt"
        reason = f"no answer within {tool.timeout} s" if isinstance(error, TimeoutError) else "the caller was cancelled"
        effect = await _finish(board, effect, state, {"error": reason}, label)
        if isinstance(error, asyncio.CancelledError):
            raise
        return effect
    except Exception as error:
        reason = str(error) if isinstance(error, AgentsysError) else f"{type(error).__name__}: {error}"
        # The message may quote what the tool read, so it carries the label of a result.
        _, failure_label = _labelled(tool, None, label)
        return await _finish(board, effect, "failed", {"error": reason}, failure_label)
    return await _finish(board, effect, "succeeded", {"value": value}, result_label)


def _labelled(tool: Tool, returned: Any, label: Label) -> tuple[Json, Label]:
    """Return a tool's result as JSON, labelled with all that shaped it."""
    value, own = unwrap(returned)
    sources = own or ([tool.source] if tool.source else [])
    return to_json(value), label.join(*sources)


async def _finish(board: Board, effect: Effect, outcome: Any, result: Json, label: Label) -> Effect:
    finishing = board.begin("runtime", run=effect.intent.run)
    finishing.finish_effect(effect.id, outcome, result, label)
    return (await submit(board, finishing)).effects[-1]
