"""Bounds and exact optima, against brute force and against what policies reach."""

from __future__ import annotations

import itertools
import random
from statistics import fmean

import pytest

from agentsys.serving.simulator.bounds import (
    FluidJob,
    attainment_bound,
    fluid_jobs,
    mean_latency_bound,
    srpt_latencies,
)
from agentsys.serving.simulator.cluster import HETEROGENEOUS
from agentsys.serving.simulator.contenders import ours
from agentsys.serving.simulator.exact import ExactCall, ExactWorkflow, most_on_time
from agentsys.serving.simulator.workload import WorkloadSpec, generate


def on_time_by_order(workflows: list[ExactWorkflow]) -> int:
    """Try every set of workflows, order of calls and assignment of replicas, each call as early as it can be."""
    for size in range(len(workflows), 0, -1):
        if any(feasible(list(chosen)) for chosen in itertools.combinations(workflows, size)):
            return size
    return 0


def feasible(workflows: list[ExactWorkflow]) -> bool:
    calls = [(index, place) for index, workflow in enumerate(workflows) for place in range(len(workflow.calls))]
    replicas = range(len(workflows[0].calls[0].seconds))
    return any(
        fits(workflows, order, dict(zip(calls, places, strict=True)))
        for order in itertools.permutations(calls)
        for places in itertools.product(replicas, repeat=len(calls))
    )


def fits(workflows: list[ExactWorkflow], order: tuple[tuple[int, int], ...], where: dict[tuple[int, int], int]) -> bool:
    free: dict[int, int] = {}
    ends: dict[tuple[int, int], int] = {}
    for index, place in order:
        workflow, call = workflows[index], workflows[index].calls[place]
        if any((index, before) not in ends for before in call.after):
            return False
        ready = max([workflow.released, *(ends[index, before] for before in call.after)]) + call.tool
        replica = where[index, place]
        end = max(ready, free.get(replica, 0)) + call.seconds[replica]
        if end > workflow.due:
            return False
        free[replica] = ends[index, place] = end
    return True


@pytest.mark.parametrize("seed", range(12))
def test_the_exact_optimum_is_that_of_brute_force(seed: int) -> None:
    chance = random.Random(seed)

    def call(after: tuple[int, ...]) -> ExactCall:
        return ExactCall((chance.randint(1, 3), chance.randint(1, 3)), after, chance.randint(0, 1))

    workflows = [
        ExactWorkflow(chance.randint(0, 2), chance.randint(3, 7), (call(()), call((0,)))[: chance.randint(1, 2)])
        for _ in range(3)
    ]
    assert most_on_time(workflows) == on_time_by_order(workflows)


def test_exact_optima_are_for_few_workflows() -> None:
    with pytest.raises(ValueError, match="at most 8"):
        most_on_time([ExactWorkflow(0, 1, (ExactCall((1,)),))] * 9)


@pytest.mark.parametrize("seed", range(6))
def test_the_relaxed_bound_is_not_below_the_exact_optimum(seed: int) -> None:
    chance = random.Random(seed)
    workflows = [
        ExactWorkflow(chance.randint(0, 4), chance.randint(3, 9), (ExactCall((chance.randint(1, 4),) * 2),))
        for _ in range(6)
    ]
    jobs = [FluidJob(one.released, one.due, one.calls[0].seconds[0], one.calls[0].seconds) for one in workflows]
    exact = most_on_time(workflows) / len(workflows)
    assert exact - 1e-6 <= attainment_bound(jobs) <= 1.0
    # A finer grid loses less, and with one job to a machine nothing is lost but by pausing.
    assert attainment_bound(jobs, grid=160) <= attainment_bound(jobs, grid=10) + 1e-6


def test_the_relaxed_bound_counts_what_cannot_fit() -> None:
    jobs = [FluidJob(0.0, 1.0, 0.5, (1.0,)) for _ in range(4)]
    assert attainment_bound(jobs) == pytest.approx(0.25)
    assert attainment_bound([FluidJob(0.0, 1.0, 2.0, (0.1,))]) == 0.0, "the path alone is too long"


@pytest.mark.parametrize("seed", range(8))
def test_shortest_remaining_time_is_the_best_of_all_orders(seed: int) -> None:
    chance = random.Random(seed)
    jobs = [(float(chance.randint(0, 5)), float(chance.randint(1, 5))) for _ in range(5)]

    def by_priority(order: tuple[int, ...]) -> float:
        """Return the mean latency when jobs preempt each other in unit steps by a fixed order."""
        left = {index: seconds for index, (_, seconds) in enumerate(jobs)}
        ends, now = {}, 0.0
        while left:
            ready = [index for index in order if index in left and jobs[index][0] <= now]
            if ready:
                left[ready[0]] -= 1.0
                if left[ready[0]] == 0:
                    ends[ready[0]] = now + 1.0
                    del left[ready[0]]
            now += 1.0
        return fmean(ends[index] - jobs[index][0] for index in ends)

    best = min(by_priority(order) for order in itertools.permutations(range(5)))
    assert fmean(srpt_latencies(jobs)) == pytest.approx(best)


def test_no_policy_beats_the_bounds() -> None:
    trace = generate(WorkloadSpec(workflows=40, rate=3.0, seed=5))
    result = ours(8).run(trace, HETEROGENEOUS, 2.0)
    jobs = fluid_jobs(trace, HETEROGENEOUS, 8, 2.0)
    assert result.attainment <= attainment_bound(jobs) + 1e-6
    assert result.mean_latency >= mean_latency_bound(jobs)
