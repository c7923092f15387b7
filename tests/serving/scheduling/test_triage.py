"""Triage against the best there is, and what tenants are owed."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.scheduling.fairness import TenantShares
from agentsys.serving.scheduling.triage import Job, late_jobs
from agentsys.serving.scheduling.workflows import Workflow

JOBS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 60)), max_size=7)


def job(path: float, work: float, due: float) -> Job:
    return Job(Workflow("w", "kind", "", 0.0, due), path, work, due)


def feasible(jobs: tuple[tuple[int, int], ...], speed: int) -> bool:
    """Whether all jobs are on time in order of due date, which is the best order for that."""
    busy = 0.0
    for work, due in sorted(jobs, key=lambda job: job[1]):
        busy += work / speed
        if busy > due:
            return False
    return True


def fewest_late(jobs: list[tuple[int, int]], speed: int) -> int:
    for kept in range(len(jobs), -1, -1):
        if any(feasible(some, speed) for some in combinations(jobs, kept)):
            return len(jobs) - kept
    return 0


@given(JOBS, st.integers(1, 4))
def test_as_few_jobs_are_late_as_can_be(jobs: list[tuple[int, int]], speed: int) -> None:
    named = [job(0.0, work, due) for work, due in jobs]
    late = late_jobs(named, speed, tolerance=0.0)
    assert len(late) == fewest_late(jobs, speed)
    assert feasible(tuple(pair for pair, one in zip(jobs, named, strict=True) if one not in late), speed)


def test_the_checker_notices_an_order_that_gives_up_too_many() -> None:
    jobs = [(10, 10), (1, 11), (1, 12)]
    assert fewest_late(jobs, 1) == 0
    assert not feasible(((10, 10), (2, 11), (1, 12)), 1)


def test_a_path_longer_than_the_time_left_is_late_however_fast_the_machine() -> None:
    late = job(path=10.0, work=0.1, due=5.0)
    assert late_jobs([late], speed=100.0) == {late}


def test_estimates_may_err_a_little() -> None:
    close = job(path=1.02, work=1.02, due=1.0)
    assert late_jobs([close], 1.0, tolerance=0.05) == set()
    assert late_jobs([close], 1.0, tolerance=0.0) == {close}


def test_a_late_workflow_gets_its_time_again_as_long_as_it_can_keep_that() -> None:
    workflow = Workflow("w", "kind", "", arrived=0.0, deadline=10.0)
    assert not workflow.restore()
    assert workflow.postpone(path=2.0, now=9.0)
    assert (workflow.demoted, workflow.due) == (True, 19.0)
    assert not workflow.postpone(path=2.0, now=15.0)
    assert workflow.postpone(path=2.0, now=18.0)
    assert workflow.due == 28.0
    assert workflow.restore()
    assert (workflow.demoted, workflow.due) == (False, 10.0)


def test_a_tenant_that_asks_much_leads_and_one_that_returns_starts_level() -> None:
    shares = TenantShares()
    shares.begin("busy")
    shares.begin("modest")
    shares.serve("busy", 30.0)
    shares.serve("modest", 10.0)
    assert shares.lead("busy") == 20.0
    assert shares.lead("modest") == 0.0
    shares.begin("new")
    assert shares.lead("new") == 0.0
    assert shares.lead("busy") == 20.0
