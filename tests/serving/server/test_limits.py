"""Which requests are taken, in which order one tenant's calls run, and what is left when they have ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.server.errors import DrainingError, LimitReachedError, headers_of, status_of
from agentsys.serving.server.lifecycle import Lifecycle
from agentsys.serving.server.limits import Admission, ServerLimits, TenantLimits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_server_holds_so_many_calls_and_no_more(clock: Clock) -> None:
    admission = Admission(ServerLimits(calls=3), clock)
    ticket = admission.admit("a", 2)
    admission.admit("b", 1)
    with pytest.raises(LimitReachedError) as caught:
        admission.admit("c", 1)
    assert status_of(caught.value) == 429 and int(headers_of(caught.value)["Retry-After"]) >= 1
    admission.leave(ticket)
    admission.admit("c", 2)


def test_a_tenant_has_its_own_bounds_and_the_others_theirs(clock: Clock) -> None:
    own = {"big": TenantLimits(calls=8, queued=0)}
    admission = Admission(ServerLimits(tenant=TenantLimits(calls=1, queued=1), tenants=own), clock)
    admission.admit("small", 2)
    with pytest.raises(LimitReachedError, match="'small'"):
        admission.admit("small", 1)
    admission.admit("other", 2)
    admission.admit("big", 8)
    with pytest.raises(LimitReachedError):
        admission.admit("big", 1)


def test_tokens_come_back_with_time_and_a_debt_is_paid_first(clock: Clock) -> None:
    admission = Admission(ServerLimits(tenant=TenantLimits(tokens_per_minute=60)), clock)
    ticket = admission.admit("a", 1)
    ticket.use(90)
    admission.leave(ticket)
    with pytest.raises(LimitReachedError) as caught:
        admission.admit("a", 1)
    assert caught.value.retry_after == 31
    clock.now += 30
    with pytest.raises(LimitReachedError):
        admission.admit("a", 1)
    clock.now += 1
    admission.leave(admission.admit("a", 1))


async def test_the_more_urgent_call_of_a_tenant_runs_first(clock: Clock) -> None:
    admission, order = Admission(ServerLimits(tenant=TenantLimits(calls=1)), clock), []
    ticket, gate = admission.admit("a", 4), asyncio.Event()

    async def call(name: str, urgency: float) -> None:
        async with ticket.turn(urgency):
            order.append(name)
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for name, urgency in (("first", math.inf), ("idle", math.inf), ("soon", 5.0), ("now", 1.0)):
            group.create_task(call(name, urgency))
            await asyncio.sleep(0)
        assert admission.waiting == 3
        gate.set()
    assert order == ["first", "now", "soon", "idle"] and admission.waiting == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30), st.integers(1, 3))
def test_no_place_is_lost_or_used_twice_whoever_gives_up(calls: list[tuple[int, bool]], most: int) -> None:
    async def run() -> None:
        admission, running, peak = Admission(ServerLimits(tenant=TenantLimits(calls=most))), 0, 0
        ticket = admission.admit("a", len(calls))

        async def call(pauses: int) -> None:
            nonlocal running, peak
            async with ticket.turn(float(pauses)):
                running += 1
                peak = max(peak, running)
                try:
                    for _ in range(pauses):
                        await asyncio.sleep(0)
                finally:
                    running -= 1

        tasks = [asyncio.create_task(call(pauses)) for pauses, _ in calls]
        await asyncio.sleep(0)
        for task, (_, gives_up) in zip(tasks, calls, strict=True):
            if gives_up:
                task.cancel()
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert running == 0 and peak <= most and admission.waiting == 0
        async with asyncio.timeout(5):
            for _ in range(most):  # every place is free again
                await ticket._admission._begin(ticket._account, 0.0)

    asyncio.run(run())


def test_tenants_without_anything_under_way_are_forgotten(clock: Clock) -> None:
    admission = Admission(ServerLimits(tenant=TenantLimits(tokens_per_minute=60)), clock)
    busy = admission.admit("busy", 1)
    for number in range(3000):
        clock.now += 60
        ticket = admission.admit(str(number), 1)
        ticket.use(10)
        admission.leave(ticket)
    assert len(admission._accounts) < 1100 and "busy" in admission._accounts
    admission.leave(busy)


@pytest.fixture
def drained(clock: Clock) -> Iterator[Lifecycle]:
    yield Lifecycle(10.0, clock)


def test_a_draining_server_finishes_what_it_has_and_takes_nothing(drained: Lifecycle, clock: Clock) -> None:
    with drained.request(lambda: None):
        drained.drain()
        clock.now += 4
        with pytest.raises(DrainingError) as caught, drained.request(lambda: None):
            pass
        assert (status_of(caught.value), headers_of(caught.value)) == (503, {"Retry-After": "6"})
        assert not drained.ended
    assert drained.ended


def test_it_does_not_wait_for_ever(drained: Lifecycle, clock: Clock) -> None:
    aborted: list[int] = []
    with drained.request(lambda: aborted.append(1)):
        drained.drain()
        clock.now += 10
        assert drained.ended
        drained.abort_all()
    assert aborted == [1]
