"""The workflows that are under way, as their calls reveal them.

A workflow is known by its calls. Calls that are in flight together make a stage; when the last of them has ended, the
next call begins the next stage, and what passed between was tools or thought.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentsys.serving.requests import WorkflowCall
from agentsys.serving.scheduling.stages import START, Demand, StageHistory

_LONGEST_GAP: Final = 120.0
"""Seconds without a call after which a workflow that did not say so counts as ended."""

_MOST_KINDS: Final = 1024  # their names are the callers'

_LEAST_TIME: Final = 3.0  # of the remaining path, that a postponed workflow is given


@dataclass(slots=True, eq=False)
class Workflow:
    """One instance. ``open`` are its calls, each with what is expected of it; ``attained`` is the work done for it.

    ``due`` is the deadline that it is served by: a later one if it cannot be on time any more, or only at the price of
    others.
    """

    name: str
    kind: str
    tenant: str
    arrived: float
    deadline: float
    stage: str = START
    open: dict[str, Demand] = field(default_factory=dict)
    quiet_since: float = 0.0
    attained: float = 0.0
    due: float = 0.0
    _done: Demand = field(default_factory=Demand)

    def __post_init__(self) -> None:
        self.due = self.deadline

    @property
    def demoted(self) -> bool:
        """Whether it was given up to be on time."""
        return self.due > self.deadline

    def postpone(self, path: float, now: float) -> bool:
        """Give a late workflow as much time again as it had, from now on; returns whether that changed anything.

        What it was given before counts as long as it can still keep that.
        """
        if self.demoted and now + path <= self.due:
            return False
        self.due = now + max(self.deadline - self.arrived, _LEAST_TIME * path)
        return True

    def restore(self) -> bool:
        """Serve it by its own deadline again; returns whether that changed anything."""
        changed, self.due = self.demoted, self.deadline
        return changed

    def begin_call(self, call_id: str, stage: str, expected: Demand) -> bool:
        """Note a call; returns whether it begins a new stage."""
        begins = not self.open
        if begins:
            self.stage, self._done = stage, Demand()
        self.open[call_id] = expected
        return begins

    def end_call(self, call_id: str, took: Demand, now: float) -> Demand | None:
        """Note a call's end; returns what the stage took if it was its last call."""
        if self.open.pop(call_id, None) is None:
            return None
        self.attained += took.work
        self._done = Demand(max(self._done.path, took.path), self._done.work + took.work)
        if self.open:
            return None
        self.quiet_since = now
        return self._done


class WorkflowTable:
    """All workflows under way, and what was learned of their kinds. Several dispatchers may share one."""

    def __init__(self) -> None:
        self._workflows: dict[str, Workflow] = {}
        self._kinds: dict[str, StageHistory] = {}
        self._swept = 0.0

    def __iter__(self) -> Iterator[Workflow]:
        return iter(self._workflows.values())

    def __len__(self) -> int:
        return len(self._workflows)

    def know(self, kind: str, edges: Mapping[str, Iterable[str | None]]) -> None:
        """Take a workflow's graph as the first guess of what follows what; a kind already known keeps what it has."""
        self._kinds.setdefault(kind, StageHistory(edges))

    def knows(self, kind: str) -> bool:
        """Whether anything is known of what follows what in workflows of this kind."""
        return kind in self._kinds

    def get(self, name: str) -> Workflow | None:
        """Return a workflow under way."""
        return self._workflows.get(name)

    def begin_call(self, call_id: str, place: WorkflowCall, expected: Demand, now: float) -> Workflow:
        """Note a call, and its workflow if it is the first."""
        workflow = self._workflows.get(place.workflow)
        if workflow is None:
            arrived = place.arrived or now
            workflow = Workflow(place.workflow, place.kind, place.tenant, arrived, place.deadline, quiet_since=arrived)
            self._workflows[place.workflow] = workflow
        if math.isfinite(place.deadline) and place.deadline != workflow.deadline:
            workflow.deadline = workflow.due = place.deadline
        before, since = workflow.stage, workflow.quiet_since
        if workflow.begin_call(call_id, place.stage, expected):
            self._history(workflow.kind).followed(before, place.stage, max(now - since, 0.0))
        return workflow

    def end_call(self, workflow: Workflow, call_id: str, took: Demand, now: float) -> None:
        """Note a call's end and what it took."""
        stage = workflow.end_call(call_id, took, now)
        if stage is not None:
            self._history(workflow.kind).ended(workflow.stage, stage)

    def drop_call(self, workflow: Workflow, call_id: str, now: float) -> None:
        """Forget a call that came to nothing: nothing is learned from it."""
        workflow.open.pop(call_id, None)
        workflow.quiet_since = now

    def end(self, name: str, now: float) -> None:
        """Note that a workflow has ended; unknown ones are ignored."""
        workflow = self._workflows.pop(name, None)
        if workflow is not None and not workflow.open:
            self._history(workflow.kind).followed(workflow.stage, None, max(now - workflow.quiet_since, 0.0))

    def after(self, workflow: Workflow) -> Demand:
        """Return what is expected of a workflow after its present stage."""
        return self._history(workflow.kind).left(workflow.stage)

    def remaining(self, workflow: Workflow, opened: Sequence[Demand]) -> Demand:
        """Return what is expected of a workflow from now on; ``opened`` is what is left of its open calls."""
        longest = max((demand.path for demand in opened), default=0.0)
        return Demand(longest, sum(demand.work for demand in opened)) + self.after(workflow)

    def sweep(self, now: float) -> None:
        """End the workflows that have been quiet for long."""
        if now - self._swept < _LONGEST_GAP / 4:
            return
        self._swept = now
        for workflow in list(self._workflows.values()):
            if not workflow.open and now - workflow.quiet_since > _LONGEST_GAP:
                self._workflows.pop(workflow.name)
                self._history(workflow.kind).followed(workflow.stage, None, 0.0)

    def _history(self, kind: str) -> StageHistory:
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = StageHistory()
            if len(self._kinds) > _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
        return known
