"""The list of runs as the faces show it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from agentsys import topics
from agentsys.approvals import list_approvals
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.predicates import Predicate
from agentsys.runs import RunRecord, RunStatus
from agentsys.views.labels import ViewLabel
from agentsys.views.run_index import run_index
from agentsys.views.texts import shorten, value_text
from agentsys.views.withholding import content, may_read

MODEL_STEPS: Final = frozenset({"generate", "extract"})
"""Kinds of recorded steps that are calls of a model."""

RunState = Literal["running", "waiting", "done", "failed", "cancelled"]
"""A run's status; ``waiting`` is a running one that asked a person who has not answered."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. Times are in unix seconds; ``tokens`` counts prompt and completion, ``None`` without a model call.

    ``waiting`` counts the approvals that it asked for and that nobody has decided.
    """

    run: str
    workflow: str
    status: RunStatus
    summary: str = field(metadata=content("input_label", ""))
    input_label: ViewLabel
    started: float
    finished: float | None
    tokens: int | None
    label: ViewLabel
    waiting: int = 0
    withheld: bool = False

    def seconds(self, now: float) -> float:
        """Return how long the run took, or has taken so far."""
        return (self.finished or now) - self.started

    @property
    def state(self) -> RunState:
        return "waiting" if self.status == "running" and self.waiting else self.status


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are wanted; ``search`` is looked for in the run's identifier and, where it may be read, the input."""

    status: RunState | None = None
    workflow: str | None = None
    search: str = ""

    def admits(self, record: RunRecord, waiting: int, reader: str) -> bool:
        state = "waiting" if record.status == "running" and waiting else record.status
        shown = input_text(record.input) if may_read(record.input_label, reader) else ""
        return (
            self.status in (None, state, record.status)
            and self.workflow in (None, record.workflow)
            and self.search.casefold() in f"{record.run}\n{shown}".casefold()
        )


@dataclass(frozen=True, slots=True)
class RunList:
    """The newest runs first, how many match in all, and the workflows of all runs, matching or not."""

    rows: tuple[RunRow, ...]
    total: int
    workflows: tuple[str, ...]


def newest_runs(board: Board, limit: int, wanted: RunFilter | None = None, *, reader: str) -> RunList:
    """Return at most ``limit`` of the runs that ``wanted`` admits for ``reader``, the one started last first."""
    records, waiting = run_index(board).records(board), waiting_approvals(board)
    chosen = wanted or RunFilter()
    found = [record for record in reversed(records) if chosen.admits(record, waiting.get(record.run, 0), reader)]
    return RunList(
        tuple(run_row(board, record, waiting) for record in found[:limit]),
        len(found),
        tuple(sorted({record.workflow for record in records})),
    )


def waiting_approvals(board: Board) -> Mapping[str, int]:
    """Return how many undecided approvals each run has; runs without one are left out."""
    return Counter(approval.run for approval in list_approvals(board, "pending"))


def run_row(board: Board, record: RunRecord, waiting: Mapping[str, int]) -> RunRow:
    def count() -> int | None:
        return tokens_of(board.query(Predicate(topic=topics.steps(record.run))))

    return RunRow(
        run=record.run,
        workflow=record.workflow,
        status=record.status,
        summary=shorten(input_text(record.input)),
        input_label=record.input_label,
        started=record.started,
        finished=record.finished,
        tokens=run_index(board).tokens(record, count),
        label=record.label or record.input_label,
        waiting=waiting.get(record.run, 0),
    )


def input_text(value: Json) -> str:
    """Return the question of a question, and any other input as JSON."""
    if isinstance(value, dict) and isinstance(value.get("question"), str):
        return str(value["question"])
    return value_text(value)


def tokens_of(steps: Iterable[Entry]) -> int | None:
    """Return the tokens of all recorded model calls, or ``None`` if there is no such call."""
    usages = [usage for usage in map(usage_of, steps) if usage is not None]
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages) if usages else None


def usage_of(step: Entry) -> dict[str, int] | None:
    """Return what a recorded model call used, or ``None`` for a step that is none, or that failed."""
    recorded = step.value
    if not isinstance(recorded, dict) or recorded["kind"] not in MODEL_STEPS:
        return None
    usage: dict[str, int] | None = recorded["value"].get("usage")
    return usage
