"""What no policy can beat: bounds over relaxed problems, which know every length and arrival beforehand.

Relaxed are precedence, batching (a replica decodes as if every slot were always used) and prompts (what a call shares
with others costs nothing). Work may be split over replicas and paused at will. What remains is
``R|r_j, pmtn|Σ U_j`` over fluid replicas, whose optimum bounds attainment from above, and shortest remaining
processing time on one machine as fast as all together, which bounds mean latency from below (Schrage 1968).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from agentsys.serving.scheduling.step_time import StepTime
from agentsys.serving.simulator.cluster import Cluster, alone
from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow

_GRID: Final = 80


@dataclass(frozen=True, slots=True)
class FluidJob:
    """A workflow as the relaxation sees it: ``work`` has the seconds it needs of each replica if that does it all."""

    released: float
    due: float
    path: float
    work: tuple[float, ...]

    @property
    def hopeless(self) -> bool:
        """Whether its critical path alone is too long."""
        return self.released + self.path > self.due


def least_seconds(prices: StepTime, slots: int, call: TraceCall) -> float:
    """Return the seconds of a replica's time that a call cannot do without."""
    own = call.prompt_tokens - call.template_tokens - call.context_tokens
    steps = call.completion_tokens - 1
    context = call.prompt_tokens + (steps + 1) / 2
    per_step = prices.base / slots + prices.per_sequence + prices.per_context * context
    return own * prices.per_prefill + steps * per_step


def fluid_jobs(trace: Trace, cluster: Cluster, slots: int, scale: float) -> list[FluidJob]:
    """Return a trace's workflows for the relaxation, with deadlines at ``scale``."""
    deadlines = trace.deadlines(cluster.call_seconds, scale)
    return [
        FluidJob(
            released=one.arrived,
            due=deadlines[one.workflow],
            path=one.critical_path(lambda call: _least_alone(cluster, call)),
            work=tuple(_work(one, machine.step_time, slots) for machine in cluster.machines),
        )
        for one in trace.workflows
    ]


def attainment_bound(jobs: Sequence[FluidJob], *, seconds: float = 20.0, grid: int = _GRID) -> float:
    """Return a share of jobs on time that no schedule exceeds.

    A mixed-integer program over a grid of ``grid`` intervals; windows are widened to whole intervals, so it stays a
    relaxation. Stopped after ``seconds``, the solver's own bound on the optimum is returned.
    """
    able = [job for job in jobs if not job.hopeless]
    if not able:
        return 0.0
    edges = np.linspace(min(job.released for job in able), max(job.due for job in able), grid + 1)
    replicas, length = len(able[0].work), float(edges[1] - edges[0])
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    column = len(able)  # the first columns say whether each job is on time, those after which share of it runs where
    for row, job in enumerate(able):
        first = max(int(np.searchsorted(edges, job.released, side="right")) - 1, 0)
        last = min(int(np.searchsorted(edges, job.due, side="left")), grid)
        for interval in range(first, last):
            for replica, work in enumerate(job.work):
                rows += [row, len(able) + interval * replicas + replica]
                columns += [column, column]
                values += [1.0, work]
                column += 1
        rows.append(row)
        columns.append(row)
        values.append(-1.0)
    shape = (len(able) + grid * replicas, column)
    matrix = coo_array((values, (rows, columns)), shape=shape).tocsr()
    upper = np.concatenate([np.zeros(len(able)), np.full(grid * replicas, length)])
    lower = np.concatenate([np.zeros(len(able)), np.full(grid * replicas, -np.inf)])
    chosen = np.arange(column) < len(able)
    solved = milp(
        -chosen.astype(float),
        integrality=chosen.astype(int),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(matrix, lower, upper),
        options={"time_limit": seconds, "mip_rel_gap": 0.005},
    )
    bound = solved.mip_dual_bound if solved.mip_dual_bound is not None else -float(len(able))
    return float(min(-bound, len(able))) / len(jobs)


def mean_latency_bound(jobs: Sequence[FluidJob]) -> float:
    """Return a mean latency in seconds that no schedule undercuts."""
    speed = len(jobs[0].work)
    times = [(job.released, min(job.work) / speed) for job in jobs]
    return max(fmean(srpt_latencies(times)), fmean(job.path for job in jobs))


def srpt_latencies(jobs: Sequence[tuple[float, float]]) -> list[float]:
    """Return latencies of jobs (release, seconds) under shortest remaining processing time on one machine."""
    order = sorted(range(len(jobs)), key=lambda one: jobs[one][0])
    waiting: list[tuple[float, int]] = []
    latencies = [0.0] * len(jobs)
    now, position = 0.0, 0
    while position < len(order) or waiting:
        if not waiting:
            now = max(now, jobs[order[position]][0])
        while position < len(order) and jobs[order[position]][0] <= now:
            heapq.heappush(waiting, (jobs[order[position]][1], order[position]))
            position += 1
        left, job = heapq.heappop(waiting)
        until = jobs[order[position]][0] if position < len(order) else float("inf")
        if now + left <= until:
            now += left
            latencies[job] = now - jobs[job][0]
        else:
            heapq.heappush(waiting, (left - (until - now), job))
            now = until
    return latencies


def _work(workflow: TraceWorkflow, prices: StepTime, slots: int) -> float:
    return sum(least_seconds(prices, slots, call) for call in workflow.calls)


def _least_alone(cluster: Cluster, call: TraceCall) -> float:
    own = max(call.prompt_tokens - call.template_tokens - call.context_tokens, 1)
    bare = TraceCall(call.stage, own, call.completion_tokens)
    return min(alone(one.step_time, cluster.shape, bare) for one in cluster.machines)
