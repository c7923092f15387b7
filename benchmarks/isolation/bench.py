"""``agentsys bench isolation``: what two levels let through, judged by checkers that must find what is planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.benchmarks.isolation.anomalies import PERMITTED
from agentsys.benchmarks.isolation.histories import jepsen_events, to_edn_lines, to_json_lines
from agentsys.benchmarks.isolation.list_append import check_lists
from agentsys.benchmarks.isolation.planted import (
    LIST_VIOLATIONS,
    PREDICATE_VIOLATIONS,
    list_transactions,
    with_violation,
)
from agentsys.benchmarks.isolation.predicate_reads import check_predicates
from agentsys.benchmarks.isolation.trial import PROCESSES, READER, Plan, Trial, run_trial
from agentsys.benchmarks.isolation.workloads import WORKLOADS
from agentsys.blackboard.commits import Isolation

TRANSACTIONS: Final = 200_000
QUICK_TRANSACTIONS: Final = 20_000
SAMPLE: Final = 2_000
"""Recorded transactions among which the violations are planted."""


def main(options: Options) -> BenchResult:
    """Run every workload at every level, on a board of its own. ``--set kills=N`` kills processes during each.

    ``--set histories=DIR`` keeps the list-append histories in Jepsen's formats, for other checkers, and ``--set
    server=URL`` puts the boards on a PostgreSQL server.
    """
    total = int(options.arguments.get("transactions", QUICK_TRANSACTIONS if options.quick else TRANSACTIONS))
    kills = int(options.arguments.get("kills", 0))
    levels: tuple[Isolation, ...] = get_args(Isolation)
    share, server = total // len(WORKLOADS) // len(levels), options.arguments.get("server")
    plans = [Plan(name, level, share, kills, server=server) for name in WORKLOADS for level in levels]
    trials = []
    for plan in plans:
        trial = run_trial(plan)
        if trial.lists and "histories" in options.arguments:
            keep_history(trial, Path(options.arguments["histories"]))
        trials.append(trial)
    committed = sum(trial.outcomes["ok"] for trial in trials)
    missed = [kind for trial in trials for kind in unfound(trial)]
    forbidden = [anomaly for trial in trials for anomaly in trial.forbidden]
    return BenchResult(
        name="isolation",
        figure=f"{committed} transactions of {PROCESSES} processes at a time, {len(forbidden)} forbidden anomalies",
        columns=["workload", "level", "committed", "conflicts", "unknown", "forbidden", "shown", "tx/s"],
        rows=[_row(trial) for trial in trials],
        bars=[
            Bar("committed transactions", committed, total),
            Bar("forbidden anomalies", len(forbidden), 0, at_least=False),
            Bar("planted violations not found", len(missed), 0, at_least=False),
            Bar("workloads in which snapshot shows its anomaly", sum(map(_shows, trials)), len(WORKLOADS)),
        ],
        repetitions={f"seconds of {trial.plan.workload}, {trial.plan.isolation}": [trial.seconds] for trial in trials},
        notes=[f"{anomaly.kind}: {anomaly.text}" for anomaly in forbidden[:10]] + [f"not found: {k}" for k in missed],
    )


def unfound(trial: Trial) -> list[str]:
    """Return the kinds of violation that the checkers do not find when they are planted in the trial's own record."""
    missed = []
    if trial.lists:
        recorded = trial.lists[:SAMPLE]
        for kind, script in LIST_VIOLATIONS.items():
            planted = list_transactions(script, at=max(item.ended for item in recorded) + 1, process=READER + 1)
            if kind not in {anomaly.kind for anomaly in check_lists([*recorded, *planted])}:
                missed.append(kind)
        return missed
    for kind in PREDICATE_VIOLATIONS:
        changed = with_violation(kind, trial.log, trial.predicates[:SAMPLE])
        if kind not in {anomaly.kind for anomaly in check_predicates(trial.log, changed)}:
            missed.append(kind)
    return missed


def keep_history(trial: Trial, folder: Path) -> list[Path]:
    """Write the history of a list-append trial as JSON lines and as EDN; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    events = list(jepsen_events(trial.lists))
    written = []
    for suffix, text in (("jsonl", to_json_lines(events)), ("edn", to_edn_lines(events))):
        path = folder / f"{trial.plan.workload}-{trial.plan.isolation}.{suffix}"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _row(trial: Trial) -> Sequence[str | float | int]:
    shown = Counter(anomaly.kind for anomaly in trial.found if anomaly.kind in PERMITTED[trial.plan.isolation])
    return [
        trial.plan.workload,
        trial.plan.isolation,
        trial.outcomes["ok"],
        trial.outcomes["fail"],
        trial.outcomes["info"],
        len(trial.forbidden),
        ", ".join(f"{count} {kind}" for kind, count in shown.items()) or "none",
        round(trial.outcomes["ok"] / trial.seconds),
    ]


def _shows(trial: Trial) -> bool:
    return trial.plan.isolation == "snapshot" and len(trial.found) > len(trial.forbidden)
