"""The benchmark of labels measures calls that are allowed, and counts what is inside other label work once."""

from __future__ import annotations

from agentsys.benchmarks.labels import _clocked, _exponent, microseconds_of_call, share_of_run
from agentsys.blackboard.labels import Label


def test_a_call_and_a_run_are_measured() -> None:
    assert microseconds_of_call(3, 5) > 0
    assert 0 < share_of_run(4) < 100


def test_label_work_is_counted_and_afterwards_left_as_it_was() -> None:
    before = Label.join
    with _clocked() as spent:
        Label().join(Label.trusted())
    assert spent[0] > 0
    assert Label.join is before


def test_the_exponent_is_that_of_the_growth() -> None:
    assert abs(_exponent([(size, 3.0 * size**2) for size in (10, 100, 1000)]) - 2.0) < 1e-9
