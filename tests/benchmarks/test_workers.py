"""The workers' benchmark kills a worker that has runs, and sees only those go to others."""

from __future__ import annotations

from agentsys.benchmarks.workers import RUNS, WORKERS, lose_one


def test_the_runs_of_the_killed_worker_move_and_no_others() -> None:
    loss = lose_one(None)
    assert 1 <= len(loss.seconds) <= RUNS // (WORKERS - 1)
    assert loss.seconds[0] == max(loss.seconds)
    assert loss.others == 0
