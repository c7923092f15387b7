"""Who gives way to whom inside vLLM: the pure rules, with properties, and the versions they are known for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.vllm_engine.preemption import Held, Room, UrgencyLimits, Wanted, victims, without_place
from agentsys.serving.vllm_engine.versions import VllmVersionError, may_run_ahead, supported

LIMITS = UrgencyLimits(margin_ms=100, quantum=4, most_preemptions=2)


def held(priority: int, *, steps: int = 10, preemptions: int = 0, blocks: int = 3, adapter: int = 0) -> Held:
    return Held((priority, 0.0), steps, preemptions, blocks, adapter)


def waits(priority: int, blocks: int = 1, adapter: int = 0) -> Wanted:
    return Wanted((priority, 1.0), blocks, adapter)


NO_SLOT, FREE = Room(0, 100), Room(1, 100)


def test_the_least_urgent_gives_its_slot_to_the_most_urgent() -> None:
    assert victims(LIMITS, [held(900), held(2000), held(1500)], [waits(100)], NO_SLOT) == [1]
    assert victims(LIMITS, [held(900), held(2000), held(1500)], [waits(100), waits(200)], NO_SLOT) == [1, 2]


def test_a_free_slot_is_taken_before_anybody_gives_way() -> None:
    assert victims(LIMITS, [held(900)], [waits(100)], FREE) == []
    assert victims(LIMITS, [held(900)], [waits(100), waits(200)], FREE) == [0]


def test_memory_is_made_for_the_urgent_as_well() -> None:
    assert victims(LIMITS, [held(900), held(800)], [waits(100, blocks=5)], Room(1, 1)) == [0, 1]
    assert victims(LIMITS, [held(900), held(800)], [waits(100, blocks=4)], Room(1, 1)) == [0]


def test_a_call_that_cannot_be_served_takes_nothing() -> None:
    assert victims(LIMITS, [held(900), held(800)], [waits(100, blocks=50)], Room(1, 1)) == []


@pytest.mark.parametrize(
    "spared", [held(1050, steps=9), held(9000, steps=3), held(9000, preemptions=2)], ids=["margin", "quantum", "bound"]
)
def test_margin_quantum_and_bound_spare_a_running_call(spared: Held) -> None:
    assert victims(LIMITS, [spared], [waits(1000)], NO_SLOT) == []


def test_nobody_more_urgent_gives_way_while_the_least_urgent_has_its_quantum() -> None:
    assert victims(LIMITS, [held(9000, steps=3), held(5000)], [waits(1000)], NO_SLOT) == []
    assert victims(LIMITS, [held(9000, preemptions=2), held(5000)], [waits(1000)], NO_SLOT) == [1]


def test_without_preemption_nobody_gives_way() -> None:
    assert victims(UrgencyLimits(preempt=False), [held(9000)], [waits(1)], NO_SLOT) == []


KEY = st.tuples(st.integers(0, 3000), st.floats(0, 10))
HELD = st.builds(Held, KEY, st.integers(0, 20), st.integers(0, 4), st.integers(0, 10))
WAITING = st.lists(st.builds(Wanted, KEY, st.integers(1, 12)), max_size=8)
ADAPTER = st.integers(0, 4)
WITH_ADAPTER = st.builds(Held, KEY, st.integers(0, 20), st.integers(0, 4), st.just(1), ADAPTER)


@given(st.lists(HELD, max_size=8), WAITING, st.integers(0, 3), st.integers(0, 20))
def test_whoever_gives_way_may_and_serves_somebody_more_urgent(
    running: list[Held], waiting: list[Wanted], slots: int, blocks: int
) -> None:
    chosen = victims(LIMITS, running, sorted(waiting), Room(slots, blocks))
    assert len(set(chosen)) == len(chosen)
    for place in chosen:
        assert running[place].steps >= LIMITS.quantum and running[place].preemptions < LIMITS.most_preemptions
        assert min(waiting)[0][0] + LIMITS.margin_ms < running[place].key[0]
    spared = [one for place, one in enumerate(running) if place not in chosen]
    could = [one.key for one in spared if one.preemptions < LIMITS.most_preemptions]
    assert all(running[place].key >= max(could, default=running[place].key) for place in chosen)


def test_all_calls_of_another_adapter_give_way_for_one_that_lacks_a_place() -> None:
    room = Room(5, 100, adapters=2)
    running = [held(900, adapter=1), held(5000, adapter=1), held(2000, adapter=2), held(3000, adapter=2), held(9000)]
    assert victims(LIMITS, running, [waits(100, adapter=3)], room) == [3, 2], "its most urgent call is less urgent"
    assert victims(LIMITS, running, [waits(100, adapter=1)], room) == []
    assert victims(LIMITS, running, [waits(100, adapter=3)], Room(5, 100, adapters=3)) == []
    assert victims(LIMITS, running, [waits(100, adapter=3)], Room(5, 100)) == []
    three = [waits(100, adapter=3), waits(200, adapter=3), waits(300, adapter=4)]
    assert victims(LIMITS, running, three, room) == [3, 2, 1, 0], "the second shares the place of the first"


def test_a_call_without_a_place_for_its_adapter_does_not_stop_those_behind_it() -> None:
    running = [held(900, adapter=1), held(5000, steps=0, adapter=1), held(9000)]
    waiting = [waits(100, adapter=2), waits(200)]
    assert victims(LIMITS, running, waiting, Room(0, 100, adapters=1)) == [2]


@given(st.lists(WITH_ADAPTER, max_size=8), st.lists(st.builds(Wanted, KEY, st.just(1), ADAPTER), max_size=8))
def test_victims_of_calls_with_adapters_may_give_way_and_make_the_place(
    running: list[Held], waiting: list[Wanted]
) -> None:
    places = max(len({one.adapter for one in running} - {0}), 1)
    chosen = victims(LIMITS, running, sorted(waiting), Room(8 - len(running), 100, places))
    assert len(set(chosen)) == len(chosen)
    for place in chosen:
        assert running[place].steps >= LIMITS.quantum and running[place].preemptions < LIMITS.most_preemptions
        assert min(waiting).key[0] + LIMITS.margin_ms < running[place].key[0]
    staying = {one.adapter for place, one in enumerate(running) if place not in chosen} - {0}
    if running and not chosen:
        assert len(staying) <= places


def test_behind_a_call_that_waits_for_a_place_the_least_urgent_adapter_gets_no_more() -> None:
    running = [((10, 0.0), 1), ((50, 0.0), 2), ((20, 0.0), 2), ((99, 0.0), 0)]
    assert without_place(running, [2, 3, 1, 2, 0, 3, 2], 2) == [1, 3, 5, 6], "1 goes on, 2 has to end, 0 needs none"
    assert without_place(running, [2, 3, 1, 2, 4], 3) == [4]
    assert without_place([], [1, 2, 3, 1], 2) == [2]


@given(st.lists(st.tuples(KEY, ADAPTER), max_size=8), st.lists(ADAPTER, max_size=12), st.integers(1, 4))
def test_whoever_may_start_leaves_no_more_adapters_than_places(
    running: list[tuple[tuple[int, float], int]], waiting: list[int], places: int
) -> None:
    before = {adapter for _key, adapter in running} - {0}
    back = without_place(running, waiting, places)
    after = before | {adapter for index, adapter in enumerate(waiting) if index not in back} - {0}
    assert len(after) <= max(places, len(before))
    assert all(waiting[index] for index in back), "a call of the model alone needs no place"
    assert not back or len(after) >= min(places, len({*before, *waiting} - {0})), "no place stays empty"


def test_limits_pass_through_a_configuration_and_refuse_nonsense() -> None:
    assert UrgencyLimits.of_config(LIMITS.as_config()) == LIMITS
    with pytest.raises(ValueError, match="quantum must not be negative, got -1"):
        UrgencyLimits(quantum=-1)


@pytest.mark.parametrize("version", ["0.24.0", "0.27.1", "0.32.0+cpu", "0.32.1rc1.dev3"])
def test_versions_in_the_range_are_taken(version: str) -> None:
    assert supported(version)[0] == 0


@pytest.mark.parametrize("version", ["0.23.0", "0.33.0", "1.0.0", "dev", ""])
def test_other_versions_are_refused_by_name(version: str) -> None:
    with pytest.raises(VllmVersionError) as caught:
        supported(version)
    assert caught.value.code == "AGS-0442" and version in str(caught.value)


def test_steps_are_scheduled_ahead_only_where_stale_output_is_known() -> None:
    assert not may_run_ahead((0, 32), "cpu")
    assert may_run_ahead((0, 28), "cuda") and not may_run_ahead((0, 27), "cuda")
