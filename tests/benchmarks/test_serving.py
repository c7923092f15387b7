"""What `bench serving` counts: traces, deadlines, SLO scales, and a driver that does exactly the trace's work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from agentsys.benchmarks.serving.arms import ExactLengths, by_arrival, by_deadline, no_hurry
from agentsys.benchmarks.serving.driver import Plan, run
from agentsys.benchmarks.serving.figures import Outcome, RunResult, attainment, by_load, slo_scale
from agentsys.benchmarks.serving.pacing import (
    CPU_SCALE,
    completion_tokens,
    isolated_seconds,
    load_at,
    paced,
    phases,
    renamed,
)
from agentsys.errors import ServingError
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Usage, WorkflowCall
from agentsys.serving.simulator.results import jain

PLAN = phases(40.0, (0.5, 1.0))


def outcome(latency: float, tightness: float = 1.0, load: float = 0.6) -> Outcome:
    return Outcome("w", "t", tightness, load, 2.0, latency)


def test_a_trace_has_the_load_of_each_phase() -> None:
    arrived = [one.arrived for seed in range(40) for one in paced(seed, PLAN, 2.0, CPU_SCALE).workflows]
    first, second = (sum(begin <= at < begin + 20 for at in arrived) / 40 for begin in (0, 20))
    assert first == pytest.approx(20, abs=3) and second == pytest.approx(40, abs=4)
    assert load_at(1.0, PLAN) == 0.5 and load_at(20.5, PLAN) == 1.0 and load_at(99.0, PLAN) == 1.0


def test_one_seed_is_the_same_work_at_any_capacity() -> None:
    slow, fast = paced(3, PLAN, 1.0, CPU_SCALE).workflows, paced(3, PLAN, 2.0, CPU_SCALE).workflows
    assert [one.calls for one in slow] == [one.calls for one in fast[: len(slow)]]


def test_a_renamed_trace_has_other_tokens_of_the_same_lengths() -> None:
    one, other = paced(3, PLAN, 1.0, CPU_SCALE), renamed(paced(3, PLAN, 1.0, CPU_SCALE), "again")
    pairs = list(zip(one.workflows, other.workflows, strict=True))
    assert all(a.calls == b.calls for a, b in pairs)
    assert all(
        len(a.prompt(0, 999)) == len(b.prompt(0, 999)) and a.prompt(0, 999) != b.prompt(0, 999) for a, b in pairs
    )


def test_the_slo_scale_is_the_least_at_which_the_part_is_on_time() -> None:
    outcomes = [outcome(latency) for latency in range(1, 101)]
    assert slo_scale(outcomes) == 47.5 and attainment(outcomes, 47.5) == 0.95
    assert attainment(outcomes, 47.4) < 0.95
    assert outcome(6.0, tightness=0.6).needed_scale == pytest.approx(5.0)
    assert slo_scale([outcome(1.0), outcome(math.inf)], 0.95) == math.inf, "a failure counts as late"


def test_fairness_and_loads() -> None:
    assert jain([2.0, 2.0]) == 1.0 and jain([1.0, 0.0]) == 0.5
    assert list(by_load([outcome(1.0, load=1.1), outcome(1.0, load=0.6)])) == [0.6, 1.1]


def test_the_busy_rate_leaves_begin_and_end_out() -> None:
    answered = tuple((float(second), 10 if second < 8 else 1) for second in range(12))
    assert RunResult((), 12.0, 0, answered).busy_rate() == pytest.approx(10.0)


class Scripted:
    """An engine that answers at once, with as many tokens as it is asked for, and keeps what it was asked."""

    def __init__(self, short: int = 0) -> None:
        self.asked: list[GenerateRequest] = []
        self.short = short

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.asked.append(request)
        await asyncio.sleep(0)
        count = request.sampling.max_tokens - self.short
        yield Chunk("", (1,) * count, FinishReason.LENGTH, Usage(completion_tokens=count, preemptions=1))


async def test_the_driver_does_all_of_a_trace_s_work_in_order() -> None:
    trace = paced(1, phases(0.2), 20.0, CPU_SCALE)
    engine, ended = Scripted(), []
    plan = Plan(trace, isolated_seconds(trace, lambda call: 0.001), phases(0.2), CPU_SCALE.told_tokens, told_scale=2.0)
    result = await run(ExactLengths(engine), no_hurry, plan, on_end=ended.append)
    assert result.tokens == sum(map(completion_tokens, trace.workflows))
    assert result.preemptions == trace.calls == len(engine.asked)
    assert sorted(ended) == sorted(one.workflow for one in trace.workflows)
    waits = {one.workflow: sum(call.tool_seconds for call in one.calls[-1:]) for one in trace.workflows}
    assert all(one.latency >= waits[one.workflow] for one in result.outcomes)
    for one in trace.workflows:
        asked = [request.call for request in engine.asked if request.call.workflow == one.workflow]
        assert sorted(call.stage for call in asked) == sorted(call.stage for call in one.calls)
        wanted = asked[0].deadline - asked[0].arrived
        assert wanted == pytest.approx(2.0 * one.tightness * one.critical_path(lambda call: 0.001), rel=1e-3)


async def test_who_orders_the_calls_cannot_read_their_lengths() -> None:
    trace = paced(1, phases(0.1), 20.0, CPU_SCALE)
    engine = Scripted()
    seen: list[int] = []

    class Looking(ExactLengths):
        def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
            seen.append(request.sampling.max_tokens)
            return super().submit(request)

    await run(
        Looking(engine),
        no_hurry,
        Plan(trace, isolated_seconds(trace, lambda call: 0.001), phases(0.1), CPU_SCALE.told_tokens),
    )
    assert set(seen) == {CPU_SCALE.told_tokens}


async def test_an_answer_of_another_length_is_a_failure() -> None:
    trace = paced(1, phases(0.1), 20.0, CPU_SCALE)
    plan = Plan(trace, isolated_seconds(trace, lambda call: 0.001), phases(0.1), CPU_SCALE.told_tokens)
    with pytest.raises(ServingError, match=r"workflows failed, the first: .*tokens came with"):
        await run(ExactLengths(Scripted(short=1)), no_hurry, plan)


def test_the_keys_of_the_arms() -> None:
    call = WorkflowCall("w", deadline=9.0, arrived=3.0)
    assert (by_arrival(call, 5.0), by_deadline(call, 5.0), no_hurry(call, 5.0)) == (3.0, 9.0, math.inf)
