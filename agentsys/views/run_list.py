"""The list of runs as the console shows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.runs import RunRecord, RunStatus, list_runs
from agentsys.views.texts import shorten, value_text

MODEL_STEPS: Final = frozenset({"generate", "extract"})
"""Kinds of recorded steps that are calls of a model."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. Times are in unix seconds; ``tokens`` counts prompt and completion, ``None`` without a model call."""

    run: str
    workflow: str
    status: RunStatus
    summary: str
    started: float
    finished: float | None
    tokens: int | None
    label: Label

    def seconds(self, now: float) -> float:
        """Return how long the run took, or has taken so far."""
        return (self.finished or now) - self.started


@dataclass(frozen=True, slots=True)
class RunList:
    """The newest runs first, and how many there are in all."""

    rows: tuple[RunRow, ...]
    total: int


def newest_runs(board: Board, limit: int) -> RunList:
    """Return at most ``limit`` runs, the one started last first."""
    records = list_runs(board)
    return RunList(tuple(run_row(board, record) for record in records[: -limit - 1 : -1]), len(records))


def run_row(board: Board, record: RunRecord) -> RunRow:
    return RunRow(
        run=record.run,
        workflow=record.workflow,
        status=record.status,
        summary=shorten(input_text(record.input)),
        started=record.started,
        finished=record.finished,
        tokens=tokens_of(board.query(Predicate(topic=topics.steps(record.run)))),
        label=record.label or record.input_label,
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
