"""Durable execution: each step of an actor is recorded on the board before its result is used.

An *actor* is the workflow's main function or one agent in one round; its *path* is unique in the run. A run that is
resumed executes its code again from the start, and every step that was recorded returns what it returned before. A
step whose input differs from the recorded one is a divergence: it is reported, never silently executed.

An actor whose transaction lost a conflict starts a new *attempt*. There a step equal to one of an earlier attempt
takes over that step's result, so that no model is asked and no tool is called twice for the same thing.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json, canonical_json
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import RunError


class ReplayDivergence(RunError):
    """A step of an execution differs from the recorded one."""

    code = "AGS-0620"
    remedy = (
        "The workflow's or an agent's code, or something it reads outside its context, changed since the run was "
        "recorded: restore it, or start a new run."
    )


class RecordEnded(RunError):
    """A replay reached a step that was never recorded."""

    code = "AGS-0621"
    remedy = "The run was interrupted there: resume it, then replay it."


class Mode(Enum):
    """``LIVE`` records steps that are new; ``REPLAY`` only compares with the record, and writes nothing."""

    LIVE = "live"
    REPLAY = "replay"


def digest(value: Json) -> str:
    """Return a short stable hash of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``input`` hashes its kind and arguments, ``occurrence`` counts equal steps of one attempt from 0.

    ``seq`` is the commit that recorded it, 0 before that; of a step that a fork took over, the first run's commit.
    """

    key: str
    kind: str
    input: str
    occurrence: int
    value: Json
    label: Label
    seq: int

    @staticmethod
    def of(entry: Entry) -> Step:
        recorded: Any = entry.value
        kind, content, occurrence = recorded["kind"], recorded["input"], recorded["occurrence"]
        return Step(
            entry.key, kind, content, occurrence, recorded["value"], entry.label, recorded.get("seq", entry.seq)
        )


async def submit(
    board: Board, transaction: Transaction, told: Callable[[Commit], None] = lambda commit: None
) -> Commit:
    """Commit without blocking the event loop. A cancelled caller still waits for the commit that is under way.

    ``told`` hears of the commit also then.
    """
    future = asyncio.wrap_future(board.submit(transaction))
    try:
        commit = await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            # Cancelled again, as where a program ends, it waits on: the commit is under way all the same.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None:
            told(future.result())
        raise
    told(commit)
    return commit


class Journal:
    """The recorded steps of one run."""

    def __init__(self, board: Board, run: str, mode: Mode = Mode.LIVE, lease: Entry | None = None) -> None:
        """Commits of one with a ``lease`` are refused once that is another's (see :mod:`agentsys.leases`)."""
        self.board = board
        self.run = run
        self.mode = mode
        self.lease = lease
        self._steps: dict[str, Step] = {}
        self._attempts: dict[str, int] = {}
        self._newest = 0 if lease is None else lease.seq
        for entry in board.query(Predicate(topic=topics.steps(run))):
            self._remember(Step.of(entry))

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[Step]:
        """All recorded steps in commit order."""
        return sorted(self._steps.values(), key=lambda step: step.seq)

    def get(self, key: str) -> Step | None:
        return self._steps.get(key)

    def latest_attempt(self, path: str) -> int:
        return self._attempts.get(path, 1)

    def begin(self, principal: str, audience: Readers | None = None, *, at: int | None = None) -> Transaction:
        """Return a transaction of the run; with an ``audience`` it sees only what all of that may read.

        It sees the state after commit ``at``, by default that of the run's last known commit. No database is asked.
        """
        seen = self._newest if at is None else at
        transaction = self.board.begin(principal, run=self.run, audience=audience, at=seen)
        if self.lease is not None:
            transaction.guard(self.lease)
        return transaction

    def write(
        self, transaction: Transaction, step: Step, derived_from: Sequence[EntryVersionRef] | None = None
    ) -> None:
        value = {"kind": step.kind, "input": step.input, "occurrence": step.occurrence, "value": step.value}
        where = topics.steps(self.run)
        transaction.put(where, step.key, value, type="step", label=step.label, derived_from=derived_from)

    async def record(
        self, step: Step, transaction: Transaction, derived_from: Sequence[EntryVersionRef] | None = None
    ) -> Step:
        """Commit ``step`` with everything else in ``transaction``, and return it as recorded.

        It derives from ``derived_from``, by default from what the transaction read.
        """
        self.write(transaction, step, derived_from)
        commit = await submit(self.board, transaction, lambda commit: self._remember(replace(step, seq=commit.seq)))
        return replace(step, seq=commit.seq)

    def _remember(self, step: Step) -> None:
        self._steps[step.key] = step
        self._newest = max(self._newest, step.seq)
        if step.kind == "attempt":
            path, _, attempt = step.key.rpartition("#")
            self._attempts[path] = max(self.latest_attempt(path), int(attempt))


class Cursor:
    """Walks the steps of one attempt of one actor, in the order in which its code asks for them."""

    def __init__(self, journal: Journal, path: str, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self._journal = journal
        self._next = 0
        self._seen: dict[str, int] = {}
        self._earlier = _steps_before(journal.steps, path, attempt) if attempt > 1 else {}

    def take(self, kind: str, arguments: Json, once: Sequence[Json] = ()) -> tuple[Step, Step | None]:
        """Return the step to execute (value not yet known) and, where it was recorded before, the recorded one.

        ``once`` are other forms in which the same arguments were recorded in the past. Raises
        :class:`ReplayDivergence` when the record holds another step at this position, and :class:`RecordEnded` when a
        replay would need a step that was never recorded.
        """
        key = f"{self.path}#{self.attempt}:{self._next:04d}"
        content = digest([kind, arguments])
        occurrence = self._seen.get(content, 0)
        self._next += 1
        self._seen[content] = occurrence + 1
        recorded = self._journal.get(key)
        forms = itertools.chain([content], (digest([kind, form]) for form in once))
        if recorded is not None and (recorded.kind != kind or recorded.input not in forms):
            raise ReplayDivergence(
                f"Step {key} of run {self._journal.run} was recorded as {recorded.kind} {recorded.input} and is now "
                f"{kind} {content}."
            )
        if recorded is None and self._earlier:
            found = (self._earlier.get((form, occurrence)) for form in forms)
            recorded = next((step for step in found if step is not None), None)
        if recorded is None and self._journal.mode is Mode.REPLAY:
            raise RecordEnded(f"Run {self._journal.run} has no record of step {key} ({kind}).")
        return Step(key, kind, content, occurrence, None, Label(), 0), recorded


COMPENSATE = "compensate"
"""Kind of the steps that take a call back; their input is the call's effect."""

_TAKEN_OVER = frozenset({"generate", "extract", "call", "ask", "question", "vouch", "endorse", COMPENSATE})


def _steps_before(steps: Iterable[Step], path: str, attempt: int) -> dict[tuple[str, int], Step]:
    """Return what earlier attempts of the actor at ``path`` recorded and a new attempt takes over."""
    found = {}
    for step in steps:
        actor, _, position = step.key.rpartition("#")
        if actor == path and step.kind in _TAKEN_OVER and int(position.partition(":")[0]) < attempt:
            found[step.input, step.occurrence] = step
    return found
