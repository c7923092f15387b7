"""Which workflows can still be on time, if the rest is served first.

Source: J. M. Moore, "An n job, one machine sequencing algorithm for minimizing the number of late jobs" (1968), over
one machine that is as fast as all replicas together: the jobs are what remains of workflows, so this is the relaxed
problem 1|pmtn|ΣU at this moment. Whoever it leaves out cannot be on time even there, or only in the place of another
that is smaller.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from agentsys.serving.scheduling.workflows import Workflow


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What remains of a workflow: seconds along its path, seconds of the machine, seconds until its deadline."""

    workflow: Workflow
    path: float
    work: float
    due: float


def late_jobs(jobs: Iterable[Job], speed: float, tolerance: float = 0.3) -> set[Job]:
    """Return the fewest jobs whose absence leaves all others on time on a machine of ``speed``.

    What is left is estimated by the mean of its kind, and small workflows have early deadlines; so a job counts as late
    only if it would be with the share ``tolerance`` less to do than that.
    """
    late: set[Job] = set()
    kept: list[tuple[float, int, Job]] = []
    busy = 0.0
    numbers = count()
    for job in sorted(jobs, key=lambda job: job.due):
        if job.path * (1 - tolerance) > job.due:
            late.add(job)
            continue
        heapq.heappush(kept, (-job.work, next(numbers), job))
        busy += job.work / speed
        if busy * (1 - tolerance) > job.due:
            work, _number, largest = heapq.heappop(kept)
            busy += work / speed
            late.add(largest)
    return late
