"""Steps are numbered, the newest are kept, and a reader in another thread misses none of them."""

from __future__ import annotations

import threading

from agentsys.serving.scheduling.iteration_log import IterationLog
from agentsys.serving.scheduling.step_time import Iteration


def step(number: int) -> Iteration:
    return Iteration(number, 0, 0, 1.0)


def test_a_reader_gets_what_came_since_it_last_asked() -> None:
    log = IterationLog()
    assert log.since(0) == (0, ())
    log.add(step(1))
    log.add(step(2))
    assert log.since(0) == (2, (step(1), step(2)))
    assert log.since(1) == (2, (step(2),))
    assert log.since(2) == (2, ())
    assert log.since(9) == (2, ()), "a number of another life of the engine"


def test_only_the_newest_are_kept() -> None:
    log = IterationLog(kept=3)
    for number in range(1, 11):
        log.add(step(number))
    assert log.since(0) == (10, (step(8), step(9), step(10)))


def test_a_reader_in_another_thread_sees_every_step_once() -> None:
    log = IterationLog()
    writer = threading.Thread(target=lambda: [log.add(step(number)) for number in range(1, 1001)])
    writer.start()
    last, seen = 0, []
    while last < 1000:
        last, newest = log.since(last)
        seen += newest
    writer.join()
    assert [item.prefill_tokens for item in seen] == list(range(1, 1001))
