"""What is held in memory follows from when it is needed, on a scripted clock; loading ahead saves calls waiting."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.dispatcher.keep_warm import ArrivalHistory, Footprint, KeepWarm, Memory


def history_of(*calls: float) -> ArrivalHistory:
    history = ArrivalHistory()
    for call in calls:
        history.used(call)
    return history


def warm_of(**calls: list[float]) -> KeepWarm:
    warm = KeepWarm()
    for call, name in sorted((call, name) for name, each in calls.items() for call in each):
        warm.used(name, call)
    return warm


def taking(size: int, seconds: float) -> Footprint:
    """What takes memory of this machine alone."""
    return Footprint({"cpu": size}, seconds)


def regular(gap: float, count: int = 20) -> list[float]:
    return [gap * number for number in range(count)]


def test_regular_calls_are_expected_at_their_pace() -> None:
    assert ArrivalHistory().next_use(0.0) == math.inf
    history = history_of(*regular(100.0))
    assert history.next_use(1900.0) == pytest.approx(100)
    assert history.next_use(1960.0) == pytest.approx(40)
    assert history.next_use(100_000.0) >= 90_000.0, "as long again, where no gap was ever so long"
    warm = warm_of(due=regular(100.0), once=[1900.0])
    assert warm.foreseen("due", 1960.0) == pytest.approx(40)
    assert warm.foreseen("due", 2001.0) is warm.foreseen("once", 1960.0) is warm.foreseen("never", 0.0) is None


def test_a_chance_is_the_share_of_gaps_that_end_in_time_with_two_imagined_ones() -> None:
    history = history_of(0.0, 10.0, 20.0, 50.0, 80.0)
    assert history.chance(85.0, 10.0, imagined=0.0) == pytest.approx(2 / 6, rel=0.05)
    assert history.chance(85.0, 10.0, imagined=1.0) == pytest.approx(4 / 6, rel=0.05)
    assert history.chance(95.0, 20.0, imagined=0.0) == pytest.approx(2 / 4)
    assert history.chance(200.0, 20.0, imagined=0.0) == 0.0


def test_bursts_do_not_make_forget_the_gaps_between_them() -> None:
    bursts = [3600.0 * hour + 4.0 * call for hour in range(6) for call in range(200)]
    quiet_since = bursts[-1]
    assert history_of(*bursts).next_use(quiet_since + 60) == pytest.approx(3600 - 199 * 4 - 60)


@given(calls=st.lists(st.floats(0, 1e5), max_size=60), later=st.floats(0, 1e5), within=st.floats(0, 1e5))
def test_chances_are_probabilities_that_grow_with_time_and_with_doubt(calls, later, within) -> None:
    history = history_of(*sorted(calls))
    now = max(calls, default=0.0) + later
    least, most = (history.chance(now, within, imagined=imagined) for imagined in (0.0, 1.0))
    assert 0.0 <= least <= most <= 1.0
    assert least <= history.chance(now, within + 10.0, imagined=0.0) + 1e-9
    assert not calls or history.next_use(now) >= 0.0


def test_a_certain_call_is_no_more_than_certain() -> None:
    calls = list(itertools.accumulate([0.0, 128, 32, 4, 16, 64, 128, 4, 8, 32, 32, 128, 4]))
    assert history_of(*calls).chance(calls[-1], 1e6, imagined=1.0) == 1.0


def test_what_is_needed_last_is_unloaded_first_and_no_more_than_must_be() -> None:
    warm = warm_of(often=regular(10.0, 100), seldom=regular(300.0, 4))
    held = {name: taking(size, 1.0) for name, size in {"often": 4, "seldom": 4, "never": 4, "remote": 0}.items()}

    def victims(budget: int, *busy: str) -> list[str]:
        return warm.victims(Memory(held, set(busy), {"cpu": budget}), 1000.0)

    assert victims(12) == []
    assert victims(8) == ["never"]
    assert victims(4) == ["never", "seldom"]
    assert victims(4, "never") == ["seldom", "often"]


def test_of_two_that_are_called_alike_the_one_that_costs_more_waiting_stays() -> None:
    warm = warm_of(slow=regular(100.0), quick=regular(100.0), big=regular(100.0))
    held = {"slow": taking(4, 30.0), "quick": taking(4, 1.0), "big": taking(40, 30.0)}
    assert warm.victims(Memory(held, set(), {"cpu": 44}), 1950.0) == ["quick"]
    assert warm.victims(Memory({"slow": held["slow"], "big": held["big"]}, set(), {"cpu": 43}), 1950.0) == ["big"]


def test_only_what_is_on_the_full_device_is_unloaded() -> None:
    warm = warm_of(here=regular(300.0, 4), there=regular(10.0, 100), both=regular(10.0, 100))
    held = {"here": taking(8, 1.0), "there": Footprint({"cuda": 8}, 1.0), "both": Footprint({"cpu": 1, "cuda": 4}, 1.0)}

    def victims(*busy: str, **budgets: int) -> list[str]:
        return warm.victims(Memory(held, set(busy), budgets), 1000.0)

    assert victims(cpu=9, cuda=12) == [] == victims()
    assert victims(cpu=9, cuda=11) == ["there"], "the one in no hurry takes nothing of the GPU"
    assert victims("there", cpu=9, cuda=11) == ["both"]
    assert victims(cpu=8) == ["here"] and victims("here", cpu=8) == ["both"]
    assert victims(cpu=0, cuda=0) == ["here", "there", "both"]


@given(
    sizes=st.dictionaries(st.text("abcdef", min_size=1, max_size=1), st.tuples(st.integers(0, 9), st.integers(0, 9))),
    busy=st.sets(st.text("abcdef", min_size=1, max_size=1)),
    budgets=st.fixed_dictionaries({}, optional={"cpu": st.integers(0, 30), "cuda": st.integers(0, 30)}),
)
def test_every_budget_holds_where_it_can(sizes, busy, budgets) -> None:
    held = {name: Footprint({"cpu": here, "cuda": there}, 1.0) for name, (here, there) in sizes.items()}
    chosen = KeepWarm().victims(Memory(held, busy, budgets), 0.0)
    assert not set(chosen) & busy
    for device, budget in budgets.items():
        left = sum(its.memory[device] for name, its in held.items() if name not in chosen)
        assert left <= max(budget, sum(its.memory[device] for name, its in held.items() if name in busy))


NAMES = st.text("abcdef", min_size=1, max_size=1)


@given(sizes=st.dictionaries(NAMES, st.integers(0, 9)), busy=st.sets(NAMES), budget=st.integers(0, 30))
def test_nothing_busy_is_unloaded_and_the_budget_holds_where_it_can(sizes, busy, budget) -> None:
    held = {name: taking(size, 1.0) for name, size in sizes.items()}
    chosen = KeepWarm().victims(Memory(held, busy, {"cpu": budget}), 0.0)
    assert not set(chosen) & busy
    left = sum(size for name, size in sizes.items() if name not in chosen)
    assert left <= max(budget, sum(size for name, size in sizes.items() if name in busy))


def guess(warm: KeepWarm, now: float, *, held: dict[str, Footprint], busy: set[str] = frozenset(), budget: int = 4):
    return warm.guess({"due": taking(4, 5.0)}, Memory(held, busy, {"cpu": budget}), now)


def test_a_regular_call_is_foreseen_shortly_before_it_comes() -> None:
    warm = warm_of(due=regular(600.0, 8))
    last = 7 * 600.0
    moments = [second for second in range(600) if guess(warm, last + second, held={})]
    assert moments and moments == list(range(moments[0], 600))
    assert 600 - 2 * 5 - 1 - 60 <= moments[0] <= 600 - 5
    assert guess(warm, last + 700.0, held={}) is None, "it did not come as it used to"
    warm.rest("due")
    assert guess(warm, last + 590.0, held={}) is None and not warm.expects(["due"], last + 590.0)
    warm.used("due", last + 600.0)
    assert guess(warm, last + 1190.0, held={}) == "due"


@pytest.mark.parametrize(("gaps", "foreseen"), [(1, False), (2, False), (3, True)])
def test_few_gaps_are_no_rule(gaps: int, foreseen: bool) -> None:
    warm = warm_of(due=regular(600.0, gaps + 1))
    assert (guess(warm, gaps * 600.0 + 590.0, held={}) == "due") is foreseen


def test_a_guess_takes_nobodys_place_who_is_needed_as_much() -> None:
    due = regular(600.0, 8)
    now = 7 * 600.0 + 590.0
    other = {"other": taking(4, 5.0)}
    idle = warm_of(due=due, other=[*regular(600.0, 7), 7 * 600.0 + 300.0])
    assert guess(idle, now, held=other) == "due", "the other's next call is far"
    assert guess(idle, now, held=other, budget=8) == "due"
    assert guess(idle, now, held=other, busy={"other"}) is None
    assert guess(idle, now, held=other, busy={"other"}, budget=8) == "due"
    assert guess(idle, now, held={}, budget=3) is None, "it does not fit at all"
    needed = warm_of(due=due, other=[590.0 + 20.0 * number for number in range(200) if 590 + 20 * number < now])
    assert guess(needed, now, held=other) is None
    costly = {"other": taking(4, 90.0)}
    assert guess(idle, now, held=costly) is None, "to load it again costs more than the guess can save"


@given(
    calls=st.dictionaries(NAMES, st.lists(st.floats(0, 3000), max_size=12)),
    sizes=st.dictionaries(NAMES, st.tuples(st.integers(0, 9), st.floats(0, 60)), min_size=1),
    loaded=st.sets(NAMES),
    busy=st.sets(NAMES),
    budget=st.integers(0, 30),
    later=st.floats(0, 2000),
)
def test_a_guess_fits_beside_what_is_busy_and_stands_on_gaps(calls, sizes, loaded, busy, budget, later) -> None:
    warm = warm_of(**calls)
    prints = {name: taking(*each) for name, each in sizes.items()}
    held = {name: its for name, its in prints.items() if name in loaded}
    absent = {name: its for name, its in prints.items() if name not in loaded}
    now = max(itertools.chain([0.0], *calls.values())) + later
    name = warm.guess(absent, Memory(held, busy, {"cpu": budget}), now)
    if name is not None:
        stays = sum(its.memory["cpu"] for other, its in held.items() if other in busy)
        assert name in absent and absent[name].memory["cpu"] + stays <= budget
        assert len(calls[name]) > 3 and warm.expects([name], now)
        warm.rest(name)
        assert warm.guess({name: absent[name]}, Memory(held, busy, {"cpu": budget}), now) is None


@dataclass
class Machine:
    """A machine with one budget, on whose clock models are called, loaded and unloaded; answers take no time."""

    prints: dict[str, Footprint]
    budget: int
    ahead: bool
    warm: KeepWarm = field(default_factory=KeepWarm)
    ready: dict[str, float] = field(default_factory=dict)
    loads: Counter[str] = field(default_factory=Counter)
    cold: Counter[str] = field(default_factory=Counter)

    def run(self, calls: list[tuple[float, str]]) -> Machine:
        end = calls[-1][0]
        looks = [(float(second), None) for second in range(0, int(end), 4)] if self.ahead else []
        for now, name in sorted([*calls, *looks], key=lambda each: each[0]):
            self._unload(self._memory(now), now)  # what could not go while it was being loaded
            if name is not None:
                self._call(name, now)
            else:
                self._look(now)
            memory = self._memory(now)
            assert not memory.excess or memory.busy >= set(self.ready), "only what is being loaded exceeds it"
        return self

    def _call(self, name: str, now: float) -> None:
        self.warm.used(name, now)
        if self.ready.get(name, math.inf) > now:
            self.cold[name] += 1
        if name not in self.ready:
            self._load(name, now)

    def _look(self, now: float) -> None:
        absent = {name: its for name, its in self.prints.items() if self.loads[name] and name not in self.ready}
        name = self.warm.guess(absent, self._memory(now), now)
        if name is not None:
            self.warm.rest(name)
            self._load(name, now)

    def _load(self, name: str, now: float) -> None:
        self._unload(self._memory(now).with_(name, self.prints[name]), now)
        self.ready[name] = now + self.prints[name].seconds
        self.loads[name] += 1

    def _unload(self, memory: Memory, now: float) -> None:
        for victim in self.warm.victims(memory, now):
            del self.ready[victim]

    def _memory(self, now: float) -> Memory:
        busy = {name for name, at in self.ready.items() if at > now}
        return Memory({name: self.prints[name] for name in self.ready}, busy, {"cpu": self.budget})


def calls_of(**moments: list[float]) -> list[tuple[float, str]]:
    return sorted((moment, name) for name, each in moments.items() for moment in each)


def jittered(rng: random.Random, gap: float, count: int, share: float, start: float = 0.0) -> list[float]:
    return list(itertools.accumulate((gap * rng.uniform(1 - share, 1 + share) for _ in range(count)), initial=start))


def poisson(rng: random.Random, gap: float, count: int) -> list[float]:
    return list(itertools.accumulate((rng.expovariate(1 / gap) for _ in range(count)), initial=0.0))


THREE = {name: taking(4, 6.0) for name in "abc"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_regular_calls_find_their_models_loaded_more_often(seed: int, share: float) -> None:
    rng = random.Random(seed)
    calls = calls_of(**{name: jittered(rng, 600.0, 40, share, 200.0 * number) for number, name in enumerate("abc")})
    without, with_ = (Machine(THREE, 8, ahead).run(calls) for ahead in (False, True))
    assert without.cold.total() >= 60, "three in turn find two places taken"
    assert with_.cold.total() <= without.cold.total() / 3
    assert with_.loads.total() <= without.loads.total() * 1.15


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [4, 8])
def test_random_calls_cost_few_loads_more_and_no_more_waiting(seed: int, budget: int) -> None:
    rng = random.Random(seed)
    calls = calls_of(**{name: poisson(rng, 100.0 * (1 + number), 150) for number, name in enumerate("abc")})
    without, with_ = (Machine(THREE, budget, ahead).run(calls) for ahead in (False, True))
    assert with_.loads.total() <= without.loads.total() + 2
    assert with_.cold.total() <= without.cold.total() + 2
