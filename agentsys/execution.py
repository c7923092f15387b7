"""Executing a run: its workflow as the main actor, to an end on record; and once more from the record, to compare."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from agentsys import topics
from agentsys.actor import Actor
from agentsys.actors import ActorFailed, Body, Conclusion, perform
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.transactions import Transaction
from agentsys.context import Context
from agentsys.deciding import RunTerminated
from agentsys.events import RunFinished, RunStarted
from agentsys.journal import RecordEnded, ReplayDivergence, submit
from agentsys.leases import LeaseLost, give_back, is_loss
from agentsys.models import model_calls_ended
from agentsys.rounds import Failure
from agentsys.runs import ReplayReport, RunRecord, RunResult
from agentsys.scope import RunScope
from agentsys.workflow import Workflow


async def execute(scope: RunScope, record: RunRecord, workflow: Workflow, *, resumed: bool) -> RunResult:
    """Bring a run to its end, from wherever its record stands.

    Raises what is in :data:`agentsys.recording.FATAL`, after which it can be resumed.
    """
    scope.emit(RunStarted(record.run, record.workflow, resumed))

    def conclude(transaction: Transaction, conclusion: Conclusion) -> None:
        done = record.done(conclusion.value, conclusion.label, conclusion.writes, time.time())
        done.write(transaction, conclusion.read)

    try:
        await perform(scope, _main(record), _body(workflow, scope, record), conclude)
    except ActorFailed as failed:
        await _record_failure(scope, record, failed)
    except LeaseLost:
        # A person may have ended it, instead of deciding what it asked.
        failure = (await asyncio.to_thread(RunRecord.load, scope.board, record.run)).failure
        if failure is None or failure.code != RunTerminated.code:
            raise
    finally:
        model_calls_ended(scope.model, record.run)
    result = RunResult(await asyncio.to_thread(RunRecord.load, scope.board, record.run))
    scope.emit(RunFinished(record.run, result.status))
    return result


async def repeat(scope: RunScope, record: RunRecord, workflow: Workflow) -> ReplayReport:
    """Execute a run from its record alone, and say how it compares; ``scope`` is one for replaying."""
    run, steps = record.run, len(scope.journal)
    try:
        outcome = await _outcome_again(scope, record, workflow)
    except RecordEnded as end:
        return ReplayReport(run, steps, identical=True, complete=False, divergence=str(end))
    except ReplayDivergence as divergence:
        return ReplayReport(run, steps, identical=False, complete=True, divergence=str(divergence))
    if outcome != _outcome_of(record):
        difference = f"The run came to {_outcome_of(record)!r} and now comes to {outcome!r}."
        return ReplayReport(run, steps, identical=False, complete=True, divergence=difference)
    return ReplayReport(run, steps, identical=True, complete=record.status != "running")


async def record_cancelled(board: Board, run: str, principal: str) -> None:
    """Put on record that ``principal`` ended a run, if it has not ended: of two ends the first stands."""
    while (entry := await asyncio.to_thread(board.get, topics.RUNS, run)) is not None:
        record = RunRecord.of(entry)
        if record.status != "running":
            return
        transaction = board.begin(principal, run=run, at=entry.seq)
        transaction.guard(entry)
        record.cancelled(time.time()).write(transaction)
        # Whoever executes it commits nothing more.
        give_back(run, transaction)
        try:
            await submit(board, transaction)
        except Conflict:
            continue
        return


async def _record_failure(scope: RunScope, record: RunRecord, failed: ActorFailed) -> None:
    transaction = scope.journal.begin("runtime")
    failed.decisions.write(transaction, "main:failed", failed.label)
    record.failed(_failure(scope, failed), failed.label, time.time()).write(transaction, failed.read)
    try:
        await submit(scope.board, transaction)
    except Conflict as conflict:
        if is_loss(conflict):
            raise LeaseLost(f"Run {record.run} is not this process's any more.") from conflict
        raise


async def _outcome_again(scope: RunScope, record: RunRecord, workflow: Workflow) -> list[Json]:
    """Return what the run comes to by its record, in the form of :func:`_outcome_of`."""
    ended = record.status != "running"
    try:
        conclusion = await perform(scope, _main(record), _body(workflow, scope, record), None if ended else _refuse)
    except ActorFailed as failed:
        return ["failed", _failure(scope, failed).to_json(), ""]
    return ["done", conclusion.value, conclusion.writes]


def _failure(scope: RunScope, failed: ActorFailed) -> Failure:
    return Failure.of(failed.cause, scope.secrets.text)


def _main(record: RunRecord) -> Actor:
    snapshot = record.snapshot or record.first_seq
    return Actor("main", record.workflow, record.input_label, snapshot, record.deadline)


def _body(workflow: Workflow, scope: RunScope, record: RunRecord) -> Body:
    async def body(context: Context) -> Any:
        return await workflow.execute(scope, context, record.input)

    return body


def _refuse(transaction: Transaction, conclusion: Conclusion) -> None:
    raise AssertionError("a replay commits nothing")


def _outcome_of(record: RunRecord) -> list[Json]:
    if record.failure is not None:
        return [record.status, record.failure.to_json(), ""]
    return [record.status, record.value, record.writes]
