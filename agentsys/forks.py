"""Forks: a new run whose record begins as a copy of another's, up to some commit, and goes its own way from there.

What the first run did, to shared topics and outside, stays done. The fork reads the board as the first run saw it;
where that has changed since, its commit conflicts, and the actor judges the change like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from agentsys import topics
from agentsys.approvals import Approval
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.payloads import is_erased
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import HistoryCompacted
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.verification import ERASURES, recorded_versions
from agentsys.errors import RunError
from agentsys.journal import COMPENSATE, Step, digest
from agentsys.runs import RunRecord

_SETTLED: Final = frozenset({EffectState.SUCCEEDED, EffectState.FAILED})


class ForkOutside(RunError):
    """A fork was asked for at a commit at which the run had not begun."""

    code = "AGS-0608"
    remedy = "Name a commit of the run: `agentsys board log --run RUN` lists them."


def forked(record: RunRecord, run: str, at: int | None, started: float, after: int) -> RunRecord:
    """Return the record of a fork at commit ``at``, by default of the run's beginning.

    Raises :class:`ForkOutside`, and :class:`HistoryCompacted` if the board no longer has what the run began with.
    """
    if not record.first_seq:
        raise HistoryCompacted(f"What run {record.run} began with was compacted.", remedy="Start a new run instead.")
    at = record.first_seq if at is None else at
    if at < record.first_seq:
        raise ForkOutside(f"Run {record.run} begins with commit {record.first_seq:,}, after {at:,}.")
    deadline = None if record.deadline is None else started + record.deadline - record.started
    origin: dict[str, Any] = dict(record.origin) if isinstance(record.origin, dict) else {}
    origin["forked_from"] = {"run": record.run, "at": at}
    return RunRecord(
        run,
        record.workflow,
        record.input,
        record.input_label,
        started,
        deadline,
        origin=origin,
        snapshot=record.snapshot or record.first_seq,
        after=after,
    )


def copy_steps(board: Board, source: str, target: str, at: int, transaction: Transaction) -> None:
    """Put what run ``source`` had recorded at commit ``at`` on the record of run ``target``.

    Left out is what still waited: a call without an outcome, which only the first run may bring to its end, and a
    question without an answer. So is a call that was taken back after ``at``. Raises :class:`HistoryCompacted` where
    some of it was erased.
    """
    prefix = f"{topics.RESERVED_PREFIX}{source}/"
    recorded = _recorded(board, source, prefix, at)
    waiting = _waiting(board, [entry for entry in recorded if entry.topic == topics.steps(source)])
    for entry in recorded:
        # What was decided about a step is decided anew with it, also what a person's word amounted to.
        step = entry.key.rpartition("/")[0] if entry.topic == topics.decisions(source) else entry.key
        if step in waiting and entry.topic in (topics.steps(source), topics.decisions(source)):
            continue
        value: Any = entry.value
        if entry.topic in (topics.steps(source), topics.rounds(source)):
            # Of when it was: what is read after it is as of that commit.
            value = {"seq": entry.seq, **value}
        topic = f"{topics.RESERVED_PREFIX}{target}/{entry.topic.removeprefix(prefix)}"
        transaction.put(topic, entry.key, value, type=entry.type, label=entry.label, derived_from=(entry.ref,))


def _recorded(board: Board, source: str, prefix: str, at: int) -> list[Entry]:
    """Return what run ``source`` had recorded, below ``prefix``. Raises :class:`HistoryCompacted`."""
    recorded = board.query(Predicate(topic_prefix=prefix), at=at)
    erased = [entry.address for entry in recorded if is_erased(entry.value)]
    # Of what was erased before, nothing is there any more.
    erased += recorded_versions(board.query(Predicate(topic=ERASURES), at=at))
    for topic, key in erased:
        if topic.startswith(prefix):
            gone = f"What run {source} had recorded as {topic}/{key} was erased."
            raise HistoryCompacted(gone, remedy="Fork it at an earlier commit, or start a new run instead.")
    return recorded


def _waiting(board: Board, steps: Sequence[Entry]) -> set[str]:
    """Return the keys of the steps that still wait for something, or were undone."""
    recorded = [Step.of(step) for step in steps]
    taken_back = {step.input for step in recorded if step.kind == COMPENSATE}
    return {step.key for step in steps if not _has_ended(board, step, taken_back)}


def _has_ended(board: Board, step: Entry, taken_back: Collection[str]) -> bool:
    """Whether a step has all that it waited for; ``taken_back`` are the inputs of steps that took a call back."""
    recorded: Any = step.value
    outcome: Json = recorded["value"]
    if not isinstance(outcome, dict):
        return True
    if "asked" in outcome and not _was_answered(board, step, str(outcome["asked"])):
        return False
    if "effect" not in outcome:
        return True
    effect = board.effect(str(outcome["effect"]))
    if effect is not None and effect.state is EffectState.COMPENSATED:
        return digest([COMPENSATE, effect.id]) in taken_back
    return effect.state in _SETTLED if effect is not None else "asked" in outcome


def _was_answered(board: Board, step: Entry, approval: str) -> bool:
    """Whether a word was used, or expiry: what a word amounted to is noted with the step."""
    used = board.get(topics.decisions(step.run or ""), f"{step.key}/used")
    return used is not None and Approval.load(board, approval).status != "terminated"
