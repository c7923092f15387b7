"""What is kept in memory follows from when it is needed, on a scripted clock."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.dispatcher.keep_warm import ArrivalHistory, KeepWarm


def test_regular_calls_are_expected_at_their_pace() -> None:
    history = ArrivalHistory()
    assert history.next_use(0.0) == math.inf
    for call in range(20):
        history.used(100.0 * call)
    assert 30 <= history.next_use(1900.0) <= 130
    assert history.next_use(1960.0) < history.next_use(1900.0)
    assert history.next_use(100_000.0) >= 90_000.0, "as long again, where no gap was ever so long"


def test_what_is_needed_last_is_unloaded_first_and_no_more_than_must_be() -> None:
    warm = KeepWarm()
    for moment in range(0, 1000, 10):
        warm.used("often", moment)
    for moment in range(0, 1000, 300):
        warm.used("seldom", moment)
    loaded = {"often": 4, "seldom": 4, "never": 4, "remote": 0}
    assert warm.victims(loaded, set(), 12, 1000.0) == []
    assert warm.victims(loaded, set(), 8, 1000.0) == ["never"]
    assert warm.victims(loaded, set(), 4, 1000.0) == ["never", "seldom"]
    assert warm.victims(loaded, {"never"}, 4, 1000.0) == ["seldom", "often"]


@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=6),
    busy=st.sets(st.text(max_size=3), max_size=3),
    budget=st.integers(0, 30),
)
def test_nothing_busy_is_unloaded_and_the_budget_holds_where_it_can(sizes, busy, budget) -> None:
    chosen = KeepWarm().victims(sizes, busy, budget, 0.0)
    assert not set(chosen) & busy
    left = sum(size for name, size in sizes.items() if name not in chosen)
    assert left <= max(budget, sum(size for name, size in sizes.items() if name in busy))
