"""Breakers and silence on a scripted clock."""

from __future__ import annotations

import pytest

from agentsys.serving.dispatcher.health import Breaker, CircuitBreaker, HealthLimits, Silence

LIMITS = HealthLimits(failures=3, first_pause=1.0, longest_pause=4.0, jitter=0.5, shortest_silence=2.0)


def breaker(draw: float = 0.5) -> CircuitBreaker:
    return CircuitBreaker(LIMITS, draw=lambda: draw)


def test_failures_in_a_row_open_it_and_an_answer_between_does_not() -> None:
    found = breaker()
    assert [found.failed(0.0) for _ in range(2)] == [False, False]
    assert found.succeeded() is False
    assert [found.failed(0.0) for _ in range(3)] == [False, False, True]
    assert found.state is Breaker.OPEN


def test_one_fatal_failure_is_enough() -> None:
    found = breaker()
    assert found.failed(5.0, fatal=True) and found.probe_at == 6.0
    assert found.failed(5.1, fatal=True) is False, "it is open already"


def test_pauses_double_up_to_the_longest_and_one_probe_runs_at_a_time() -> None:
    found, now, pauses = breaker(), 0.0, []
    found.failed(now, fatal=True)
    for _ in range(4):
        pauses.append(found.probe_at - now)
        assert not found.begin_probe(found.probe_at - 0.01)
        now = found.probe_at
        assert found.begin_probe(now) and not found.begin_probe(now)
        assert found.failed(now, fatal=True) is False
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    now = found.probe_at
    assert found.begin_probe(now) and found.succeeded()
    found.failed(now, fatal=True)
    assert found.probe_at - now == 1.0, "an answer makes the next pause the first again"


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 0.5), (0.5, 1.0), (0.999, 1.499)])
def test_pauses_jitter_so_that_many_do_not_ask_at_once(draw, pause) -> None:
    found = breaker(draw)
    found.failed(0.0, fatal=True)
    assert found.probe_at == pytest.approx(pause)


def test_a_replica_is_left_alone_for_as_long_as_it_asked() -> None:
    found = breaker()
    found.failed(0.0, fatal=True, pause=9.0)
    assert found.probe_at == 9.0


def test_recovery_is_noticed_within_five_seconds_of_it() -> None:
    limits = HealthLimits()
    assert limits.longest_pause * (1 + limits.jitter) <= 5.0


def test_silence_counts_only_while_there_is_work() -> None:
    silence = Silence(LIMITS)
    assert not silence.hangs(1e9, 0.0, alone=False)
    silence.busy(10.0)
    silence.sign(11.0)
    silence.sign(12.0)
    assert not silence.hangs(13.0, 0.0, alone=False)
    silence.idle()
    assert not silence.hangs(1e9, 0.0, alone=False)


def test_how_long_silence_is_borne_follows_the_gaps_seen_and_the_work_given() -> None:
    silence = Silence(LIMITS)
    assert silence.bound(0.0, alone=False) == LIMITS.longest_silence, "it never lived: it may be loading its model"
    silence.busy(0.0)
    for moment in (1.0, 1.1, 1.2):
        silence.sign(moment)
    assert silence.bound(0.0, alone=False) == LIMITS.shortest_silence
    silence.sign(2.2)
    assert silence.bound(0.0, alone=False) == pytest.approx(8.0)
    assert silence.bound(3.0, alone=False) == pytest.approx(24.0)
    assert silence.bound(1e6, alone=False) == silence.bound(0.0, alone=True) == LIMITS.longest_silence
    assert silence.hangs(10.3, 0.0, alone=False) and not silence.hangs(10.1, 0.0, alone=False)
    silence.reset()
    assert silence.bound(0.0, alone=False) == LIMITS.longest_silence
