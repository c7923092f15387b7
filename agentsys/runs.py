"""The record of a run on the board, and what a caller gets of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.payloads import is_erased
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import RunError
from agentsys.gateway import PolicyDenied
from agentsys.rounds import Failure

RunStatus = Literal["running", "done", "failed", "cancelled"]


class UnknownRun(RunError):
    """No run has this identifier."""

    code = "AGS-0601"
    remedy = "List the runs with `agentsys runs list`, or with Runtime.runs()."


class RunFailed(RunError):
    """The value of a run was asked for, and the run failed or did not finish."""

    code = "AGS-0602"
    remedy = "The message names what stopped the run; `agentsys replay RUN` shows its steps."


PRINCIPAL: Final = "principal"
"""Key in a run's origin of the principal, beside the owner, that a face began it for."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it stands on the board.

    Times are unix seconds. ``first_seq`` is the commit that began the run, 0 if a compaction has dropped it;
    ``writes`` hashes its last writes.
    ``origin`` is the starter's word on where the workflow came from, so that it can be composed again. ``snapshot`` is
    the commit as of which a fork reads, 0 for the run's own beginning. ``after`` is the newest commit when it began.
    """

    run: str
    workflow: str
    input: Json
    input_label: Label
    started: float
    deadline: float | None
    status: RunStatus = "running"
    value: Json = None
    label: Label | None = None
    failure: Failure | None = None
    finished: float | None = None
    writes: str = ""
    origin: Json = None
    snapshot: int = 0
    after: int = 0
    first_seq: int = 0

    @staticmethod
    def load(board: Board, run: str) -> RunRecord:
        """Read the record. Raises :class:`UnknownRun`."""
        entry = board.get(topics.RUNS, run)
        if entry is None:
            raise UnknownRun(f"The board has no run {run!r}.")
        first = board.history(topics.RUNS, run)[0]
        return replace(RunRecord.of(entry), first_seq=first.seq if first.version == 1 else 0)

    @staticmethod
    def of(entry: Entry) -> RunRecord:
        body: Any = dict(entry.value) if isinstance(entry.value, dict) else {}
        body["input_label"] = Label.from_json(body["input_label"])
        body["failure"] = Failure(**body["failure"]) if body["failure"] else None
        label = entry.label if body["status"] != "running" else None
        return RunRecord(run=entry.key, label=label, **body)

    @staticmethod
    def left_in(entry: Entry) -> RunRecord | None:
        """Return the record in any version that the log has, or ``None`` if it was erased."""
        return None if entry.deleted or is_erased(entry.value) else RunRecord.of(entry)

    @property
    def audience(self) -> Readers | None:
        """Who is to read what comes out, where a face says that a principal of its own began the run.

        What others keep from that principal would make its answer unreadable, and so is no part of its run.
        """
        return None if self.principal is None else Readers.of(self.principal)

    @property
    def principal(self) -> str | None:
        """The principal beside the owner that a face began the run for, if there is one."""
        named = self.origin.get(PRINCIPAL) if isinstance(self.origin, dict) else None
        return named if isinstance(named, str) else None

    @property
    def order(self) -> tuple[int, float, str]:
        """What runs are sorted by, the oldest first, whatever the clock did meanwhile."""
        return self.after, self.started, self.run

    def write(self, transaction: Transaction, derived_from: Sequence[EntryVersionRef] | None = None) -> None:
        body: Json = {
            "workflow": self.workflow,
            "input": self.input,
            "input_label": self.input_label.to_json(),
            "started": self.started,
            "deadline": self.deadline,
            "status": self.status,
            "value": self.value,
            "failure": self.failure.to_json() if self.failure else None,
            "finished": self.finished,
            "writes": self.writes,
            "origin": self.origin,
            "snapshot": self.snapshot,
            "after": self.after,
        }
        label = self.label or self.input_label
        transaction.put(topics.RUNS, self.run, body, type="run", label=label, derived_from=derived_from)

    def done(self, value: Json, label: Label, writes: str, at: float) -> RunRecord:
        return replace(self, status="done", value=value, label=label, writes=writes, finished=at)

    def cancelled(self, at: float) -> RunRecord:
        return replace(self, status="cancelled", finished=at)

    def failed(self, failure: Failure, label: Label, at: float) -> RunRecord:
        return replace(self, status="failed", failure=failure, label=label, finished=at)


def list_runs(board: Board) -> list[RunRecord]:
    """Return all runs, the oldest first."""
    records = [RunRecord.of(entry) for entry in board.query(Predicate(topic=topics.RUNS))]
    return sorted(records, key=lambda record: record.order)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out of a run: its value never goes without its label."""

    record: RunRecord

    @property
    def run(self) -> str:
        return self.record.run

    @property
    def status(self) -> RunStatus:
        return self.record.status

    @property
    def failure(self) -> Failure | None:
        return self.record.failure

    @property
    def label(self) -> Label:
        """Who shaped the value, who may read it, how much it can carry."""
        return self.record.label or self.record.input_label

    @property
    def value(self) -> Any:
        """The answer. Raises :class:`RunFailed` unless the run is done."""
        if self.status != "done":
            failure = self.failure
            unfinished = "it was cancelled" if self.status == "cancelled" else "it did not finish"
            cause = f"{failure.type} ({failure.code}): {failure.message}" if failure else unfinished
            raise RunFailed(f"Run {self.run} of {self.record.workflow} has no value: {cause}")
        return self.record.value

    def release(self, audience: Readers) -> Any:
        """Return the value for ``audience``. Raises :class:`PolicyDenied` where the label forbids it."""
        if not self.label.readers.permits(audience):
            raise PolicyDenied(f"The value of run {self.run} may not be released to {audience}.")
        return self.value


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """How a replay compared with the record: ``divergence`` describes the first difference."""

    run: str
    steps: int
    identical: bool
    complete: bool
    divergence: str | None = None
