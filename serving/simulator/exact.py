"""The exact optimum of small instances: calls without batching, at one replica each, in whole units of time.

A time-indexed integer program (Sousa and Wolsey 1992): ``x[c, e, t]`` says that call c starts at replica e at time t.
Feasible for some eight workflows; it is what policies and bounds are tested against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

MOST_WORKFLOWS = 8


@dataclass(frozen=True, slots=True)
class ExactCall:
    """``seconds`` at each replica, whole and positive; it starts ``tool`` after all calls of ``after`` have ended."""

    seconds: tuple[int, ...]
    after: tuple[int, ...] = ()
    tool: int = 0


@dataclass(frozen=True, slots=True)
class ExactWorkflow:
    """Calls in an order in which each comes after those it needs."""

    released: int
    due: int
    calls: tuple[ExactCall, ...]


@dataclass(frozen=True, slots=True)
class _Start:
    workflow: int
    call: int
    replica: int
    time: int


def most_on_time(workflows: Sequence[ExactWorkflow]) -> int:
    """Return how many workflows can be on time at most. Raises ``ValueError`` for more than eight."""
    if len(workflows) > MOST_WORKFLOWS:
        raise ValueError(f"exact optima take at most {MOST_WORKFLOWS} workflows, got {len(workflows)}")
    starts = list(_starts(workflows))
    count = len(workflows) + len(starts)  # the first variables say whether each workflow is on time
    rows: list[np.ndarray] = []
    upper: list[float] = []
    lower: list[float] = []

    def constrain(row: np.ndarray, least: float, most: float) -> None:
        rows.append(row)
        lower.append(least)
        upper.append(most)

    for index, workflow in enumerate(workflows):
        for place, call in enumerate(workflow.calls):
            row = np.zeros(count)
            row[index] = -1.0
            for at, start in enumerate(starts):
                if (start.workflow, start.call) == (index, place):
                    row[len(workflows) + at] = 1.0
            constrain(row, 0.0, 0.0)  # it starts once if its workflow is to be on time, and else not at all
            for before in call.after:
                constrain(_precedence(workflows, starts, index, before, place), 0.0, np.inf)
    horizon = max(workflow.due for workflow in workflows)
    for replica in range(len(workflows[0].calls[0].seconds)):
        for time in range(horizon):
            constrain(_occupancy(workflows, starts, replica, time), 0.0, 1.0)
    objective = np.zeros(count)
    objective[: len(workflows)] = -1.0
    solved = milp(
        objective,
        integrality=np.ones(count),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(np.array(rows), lower, upper),
    )
    return -int(np.rint(solved.fun))


def _starts(workflows: Sequence[ExactWorkflow]) -> Iterator[_Start]:
    for index, workflow in enumerate(workflows):
        for place, call in enumerate(workflow.calls):
            for replica, seconds in enumerate(call.seconds):
                earliest = workflow.released + (call.tool if not call.after else 0)
                for time in range(earliest, workflow.due - seconds + 1):
                    yield _Start(index, place, replica, time)


def _precedence(
    workflows: Sequence[ExactWorkflow], starts: Sequence[_Start], workflow: int, before: int, place: int
) -> np.ndarray:
    """Start of ``place`` − (end of ``before`` + tool) ≥ 0; of a workflow given up all three are nought."""
    calls = workflows[workflow].calls
    row = np.zeros(len(workflows) + len(starts))
    for at, start in enumerate(starts, len(workflows)):
        if (start.workflow, start.call) == (workflow, place):
            row[at] += start.time
        if (start.workflow, start.call) == (workflow, before):
            row[at] -= start.time + calls[before].seconds[start.replica]
    row[workflow] -= calls[place].tool
    return row


def _occupancy(workflows: Sequence[ExactWorkflow], starts: Sequence[_Start], replica: int, time: int) -> np.ndarray:
    row = np.zeros(len(workflows) + len(starts))
    for at, start in enumerate(starts, len(workflows)):
        seconds = workflows[start.workflow].calls[start.call].seconds[replica]
        if start.replica == replica and start.time <= time < start.time + seconds:
            row[at] = 1.0
    return row
