"""``agentsys bench crash``: kill -9, again and again, of processes that commit and act on the world."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from statistics import median
from typing import Final

from agentsys.benchmarks.crash.planted import FAULTS
from agentsys.benchmarks.crash.trial import LEADER, OTHER, PROCESSES, SERVER, Trial, run_trial
from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.benchmarks.postgres_server import OWN, running_server

KILLS: Final = 2_000
QUICK_KILLS: Final = 200
KILLS_PER_BOARD: Final = 22
PLANTED_KILLS: Final = 12
PLANTED_TRIALS: Final = 5


def main(options: Options) -> BenchResult:
    """Kill on one board after another, then show that each planted fault is caught, over SQLite.

    ``--set kills=N`` says how often, ``--set server=URL`` puts the boards on a PostgreSQL server; ``server=own`` on one
    that is started for it and killed, too.
    """
    wanted = int(options.arguments.get("kills", QUICK_KILLS if options.quick else KILLS))
    server = options.arguments.get("server")
    trials: list[Trial] = []
    with running_server() if server == OWN else nullcontext() as killable:
        while sum(trial.kills for trial in trials) < wanted:
            trials.append(run_trial(KILLS_PER_BOARD, seed=len(trials), server=server, killable=killable))
    caught = {fault: _caught(fault) for fault in FAULTS}
    kills = sum(trial.kills for trial in trials)
    faults = [fault for trial in trials for fault in trial.faults]
    effects = sum((trial.effects for trial in trials), Counter[str]())
    rows: list[list[str | float | int]] = [
        ["boards", len(trials)],
        ["processes at a time", PROCESSES],
        ["kills", kills],
        ["of the process that led", sum(trial.leaders for trial in trials)],
        ["of the database server", sum(trial.servers for trial in trials)],
        ["commits", sum(trial.commits for trial in trials)],
    ]
    rows += [[f"effects {state}", count] for state, count in sorted(effects.items())]
    rows.append(["faults", len(faults)])
    recoveries = {
        what: [seconds for trial in trials for seconds in trial.recoveries[what]] for what in (LEADER, OTHER, SERVER)
    }
    for what, times in recoveries.items():
        if times:
            rows.append([f"seconds until the others went on, without {what}: median", round(median(times), 3)])
            rows.append([f"seconds until the others went on, without {what}: longest", round(max(times), 3)])
    return BenchResult(
        name="crash",
        figure=f"{kills} kills, {len(faults)} faults",
        columns=["what", "count"],
        rows=list(rows),
        bars=[
            Bar("kills", kills, wanted),
            Bar("faults", len(faults), 0, at_least=False),
            Bar("planted faults caught", sum(map(bool, caught.values())), len(FAULTS)),
        ],
        repetitions={
            "seconds of a board": [trial.seconds for trial in trials],
            **{f"seconds without {what}": times for what, times in recoveries.items()},
        },
        notes=faults[:10] + [f"planted: {name}: {(found or ['not caught'])[0]}" for name, found in caught.items()],
    )


def _caught(fault: str) -> list[str]:
    """Return what is found where ``fault`` is planted, in as many trials as it takes: a kill must hit the moment."""
    for seed in range(PLANTED_TRIALS):
        if found := run_trial(PLANTED_KILLS, seed=seed, fault=fault).faults:
            return found
    return []
