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


async def hold(agenda: Agenda) -> str:
    async with agenda.turn(1.0):
        return "acted"


@pytest.mark.parametrize(
    ("better", "worse"),
    [((0, 1, 1), (10, 1, 1)), ((5, 0.9, 1), (5, 0.1, 1)), ((5, 1, 1), (5, 1, 2)), ((-100, 1, 1), (1, 1, 1))],
)
def test_urgency_and_value_raise_and_cost_lowers_the_rating(better, worse):
    assert rating(*better) > rating(*worse)
