from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.agenda import Agenda, rating


async def order_of(ratings: list[float], capacity: int) -> tuple[list[int], int]:
    """Return the order in which activations got their turn, and the most that ever held one at once."""
    agenda = Agenda(capacity)
    order: list[int] = []
    acting, most = 0, 0

    async def activation(number: int, rated: float) -> None:
        nonlocal acting, most
        async with agenda.turn(rated):
            acting, most = acting + 1, max(most, acting + 1)
            order.append(number)
            await asyncio.sleep(0)
            acting -= 1

    await asyncio.gather(*(activation(number, rated) for number, rated in enumerate(ratings)))
    return order, most


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=1, max_size=8))
def test_the_highest_rated_goes_next_then_the_oldest(ratings):
    order, most = asyncio.run(order_of(ratings, 1))
    waiting = sorted(range(1, len(ratings)), key=lambda number: (-ratings[number], number))
    assert order == [0, *waiting]
    assert most == 1


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4))
def test_never_more_act_than_there_is_room_and_everyone_gets_a_turn(ratings, capacity):
    order, most = asyncio.run(order_of(ratings, capacity))
    assert sorted(order) == list(range(len(ratings)))
    assert most <= capacity


async def test_a_cancelled_activation_gives_its_place_to_the_next():
    agenda = Agenda(1)
    async with agenda.turn(1.0):
        waiting = asyncio.create_task(hold(agenda))
        second = asyncio.create_task(hold(agenda))
        await asyncio.sleep(0)
        waiting.cancel()
    assert await second == "acted"
    assert await hold(agenda) == "acted"


@pytest.mark.parametrize("back", [False, True])
async def test_who_is_interrupted_in_a_pause_waits_for_no_place_and_leaves_as_many_as_there_were(back: bool):
    agenda, paused, on = Agenda(1), asyncio.Event(), asyncio.Event()

    async def asks() -> None:
        async with agenda.turn(1.0), agenda.pause(1.0):
            paused.set()
            await on.wait()

    asking = asyncio.create_task(asks())
    await paused.wait()
    async with agenda.turn(1.0):
        if back:
            # It waits to go on when it is interrupted.
            on.set()
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking], timeout=1)
        assert asking.cancelled()
        others = [asyncio.create_task(hold(agenda)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(other.done() for other in others)
    assert await asyncio.gather(*others) == ["acted"] * 3
    async with agenda.turn(1.0):
        other = asyncio.create_task(hold(agenda))
        await asyncio.sleep(0.01)
        assert not other.done()
    await other


async def hold(agenda: Agenda) -> str:
    async with agenda.turn(1.0):
        return "acted"


@pytest.mark.parametrize(
    ("better", "worse"),
    [((0, 1, 1), (10, 1, 1)), ((5, 0.9, 1), (5, 0.1, 1)), ((5, 1, 1), (5, 1, 2)), ((-100, 1, 1), (1, 1, 1))],
)
def test_urgency_and_value_raise_and_cost_lowers_the_rating(better, worse):
    assert rating(*better) > rating(*worse)
