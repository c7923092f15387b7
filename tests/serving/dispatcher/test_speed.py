"""How fast a replica is that tells no steps, from its answers."""

from __future__ import annotations

import time

import pytest

from agentsys.serving.dispatcher.answering import Copy
from agentsys.serving.dispatcher.health import HealthLimits
from agentsys.serving.dispatcher.replica import Replica, ReplicaSource
from agentsys.serving.requests import Usage
from agentsys.serving.scheduling.step_time import StepTime, StepTimeFit


def answered(tokens: int, seconds: float) -> Copy:
    """An answer whose first token came after 0.2 s, and whose last one ``seconds`` later, just now."""
    now = time.perf_counter()
    replica = Replica(ReplicaSource("r", lambda: pytest.fail("not needed")), HealthLimits(), in_flight=1)
    copy = Copy(replica, "c", lambda chunk: chunk, 100, tokens=tokens, started_at=now - seconds - 0.2)
    copy.first_at = now - seconds
    return copy


@pytest.mark.parametrize(("tokens", "seconds"), [(2, 1e-5), (3, 0.002), (60, 1e-4)])
def test_tokens_that_are_read_together_do_not_make_a_replica_fast(tokens: int, seconds: float) -> None:
    fit = StepTimeFit(StepTime(0.01, 2e-4, 5e-4, 1e-7))
    for _ in range(20):
        for step in answered(50, 50 * 0.02).steps(Usage(100, 0, 50)):
            fit.add(step)
    for step in answered(tokens, seconds).steps(Usage(100, 0, tokens)):
        fit.add(step)
    assert fit.model.seconds(0, 1, 120) == pytest.approx(0.02, rel=0.3)
