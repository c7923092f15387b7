"""Carrying out an allowed tool call as a write-ahead effect: started before it begins, its outcome after it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectClass, EffectState
from agentsys.blackboard.entries import Entry, Json, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.storage import BoardUnreachable
from agentsys.blackboard.transactions import Transaction
from agentsys.cancellation import stray_cancellation_as_error
from agentsys.errors import AgentsysError, BoardError, RunError
from agentsys.journal import RecordEnded, submit
from agentsys.labelled import Labelled, unwrap
from agentsys.memoisation import Turn
from agentsys.rounds import recordable
from agentsys.secrets import NO_SECRETS, Secrets
from agentsys.settling import INTERRUPTED, NEVER_MADE, to_be_redone
from agentsys.threads import call_foreign, within
from agentsys.tools import Tool, ToolError, to_json

POLL_SECONDS: Final = 0.2
LATEST_OUTCOME_SECONDS: Final = 60.0
"""How long after a call of another process its outcome may be on its way to the board."""

_log = logging.getLogger(__name__)


class ToolFailed(RunError):
    """A tool raised an error."""

    code = "AGS-0630"
    remedy = "The tool's own message says why; catch ToolFailed in the agent to go on without the result."


class UnknownTool(RunError):
    """A run to be resumed or replayed needs a tool that is not registered."""

    code = "AGS-0632"
    remedy = "Register the tools that the run was started with, and resume it."


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
    lease: Entry | None = None,
) -> Effect:
    """Bring an intended effect to its outcome, unless the record has it already.

    It begins only while ``lease``, if there is one, is the newest of its run. What another living process began, which
    had the run before, is waited for. Starts and outcomes wait for a board that cannot be reached.

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
    if effect.state is EffectState.STARTED:
        effect = await _left_by_the_living(board, tool, effect)
        if effect.state is not EffectState.STARTED:
            return await carry_out(board, tool, effect, replaying=False, turn=turn, secrets=secrets, lease=lease)
    if again or effect.state is EffectState.INTENDED or tool.effect_class.repeatable:
        return await _dispatch(board, tool, effect, secrets, turn, lease=lease)
    return await _recover(board, tool, effect, secrets, lease)


async def _left_by_the_living(board: Board, tool: Tool, effect: Effect) -> Effect:
    """Return the effect once the other process that carries it out has ended it, or has ended itself."""
    deadline = time.monotonic() + tool.timeout + LATEST_OUTCOME_SECONDS
    while await asyncio.to_thread(board.begun_by_the_living, effect):
        if effect.epoch == board.epoch or time.monotonic() > deadline:
            raise EffectInDoubt(
                f"The call {effect.intent.id} of {tool.name} was begun by a live process and has not ended."
            )
        await asyncio.sleep(POLL_SECONDS)
        known = await asyncio.to_thread(board.effect, effect.id)
        assert known is not None, "what is on record stays there"
        effect = known
    return effect


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


async def _recover(board: Board, tool: Tool, effect: Effect, secrets: Secrets, lease: Entry | None = None) -> Effect:
    """Settle what a dead process or a cancelled caller left behind; a queryable call that never happened is made."""
    label = effect.intent.label
    if tool.effect_class is not EffectClass.QUERYABLE or tool.query is None:
        return await _finish(board, effect, "in_doubt", {"error": "the process died during the call"}, label)
    try:
        found = await within(tool.timeout, call_foreign(tool.query, effect.id))
    except Exception as error:
        if effect.state is EffectState.IN_DOUBT:
            raise EffectInDoubt(
                f"Asking about the call {effect.id} of {tool.name} failed: {_reason(error, secrets)}."
            ) from error
        reason = f"the process died during the call, and asking about it failed: {_reason(error, secrets)}"
        return await _finish(board, effect, "in_doubt", {"error": reason}, _failure_label(tool, label))
    if found is None:
        return await _dispatch(board, tool, effect, secrets, never_happened=True, lease=lease)
    return await _conclude(board, tool, effect, found, secrets)


async def _dispatch(
    board: Board,
    tool: Tool,
    effect: Effect,
    secrets: Secrets,
    turn: Turn | None = None,
    *,
    never_happened: bool = False,
    lease: Entry | None = None,
) -> Effect:
    key, arguments, label = effect.intent.id, effect.intent.arguments, effect.intent.label

    def start() -> Transaction:
        starting = board.begin("runtime", run=effect.intent.run, at=effect.seq)
        if lease is not None:
            starting.guard(lease)
        if never_happened:
            # In one commit with the new start: alone on record, this failure would be the call's outcome.
            starting.finish_effect(key, "failed", {"error": "never happened"}, label)
        starting.start_effect(key)
        return starting

    try:
        await _surely(board, start)
    except asyncio.CancelledError:
        await _not_made(board, effect)
        raise
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


async def _not_made(board: Board, effect: Effect) -> None:
    """Put on record that a call was not made, if its start is on record."""
    with suppress(BoardError):
        known = await asyncio.to_thread(board.effect, effect.id)
        if known is None or known.attempt <= effect.attempt:
            return
        if await asyncio.to_thread(board.begun_by_the_living, known):
            await _finish(board, effect, "failed", NEVER_MADE, effect.intent.label)


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
    def finish() -> Transaction:
        finishing = board.begin("runtime", run=effect.intent.run, at=effect.seq)
        finishing.finish_effect(effect.id, outcome, result, label)
        if turn is not None and isinstance(result, dict):
            turn.keep(finishing, result["value"], label)
        return finishing

    return (await _surely(board, finish)).effects[-1]


async def _surely(board: Board, prepare: Callable[[], Transaction]) -> Commit:
    """Commit what ``prepare`` returns, however long the board is out of reach: nobody else knows what is in it."""
    prepared, told = prepare(), False
    while True:
        try:
            return await submit(board, prepared)
        except BoardUnreachable as error:
            if not told:
                _log.warning("a call of a tool waits for the board: %s", error)
            told = True
            await asyncio.sleep(POLL_SECONDS)
