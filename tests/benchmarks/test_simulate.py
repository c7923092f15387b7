"""The bars of ``agentsys bench simulate``: a policy or a simulator that is worse than it should be misses them."""

from __future__ import annotations

from agentsys.benchmarks.simulate import HEXGEN, OURS, fidelity_bars, scale_bars
from agentsys.benchmarks.simulate_fidelity import Fidelity

REAL = [1.0, 2.0, 3.0, 4.0, 10.0]


def test_scales_far_below_the_rivals_meet_their_bars_and_equal_ones_miss_them() -> None:
    assert all(bar.met for bar in scale_bars({OURS: (5.0, 5.0), HEXGEN: (7.0, 9.0)}))
    assert not any(bar.met for bar in scale_bars({OURS: (7.0, 9.0), HEXGEN: (7.0, 9.0)}))
    assert [bar.met for bar in scale_bars({OURS: (5.0, 6.3), HEXGEN: (7.0, 9.0)})] == [True, False]


def test_a_simulator_that_is_off_misses_its_bars() -> None:
    assert all(bar.met for bar in fidelity_bars(Fidelity(REAL, REAL, [])))
    assert not any(bar.met for bar in fidelity_bars(Fidelity(REAL, [1.2 * one for one in REAL], [])))
    assert [bar.met for bar in fidelity_bars(Fidelity(REAL, [*REAL[:4], 20.0], []))] == [True, False]
    assert fidelity_bars(None) == []
