"""The table, the bars and the notes of ``agentsys bench serving``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from agentsys.benchmarks.harness import Bar, BenchResult, other_cpu_share
from agentsys.benchmarks.serving.calibration import Measured
from agentsys.benchmarks.serving.figures import (
    Outcome,
    RunResult,
    attainment,
    by_load,
    slo_scale,
    tenant_fairness,
)
from agentsys.benchmarks.serving.fleet import Setting
from agentsys.benchmarks.serving.pacing import LOADS
from agentsys.serving.simulator.results import quantile

FCFS_BAR: Final = 1.5
PRIORITY_BAR: Final = 1.15
THROUGHPUT_BAR: Final = 0.97
OURS: Final = "ours"
COLUMNS: Final = (
    "arm",
    "slots",
    "@95",
    "@99",
    "on time",
    "P50 s",
    "P95 s",
    "tok/s",
    "taken",
    "worst",
    "Jain",
)


def report(setting: Setting, measured: Measured, busy: float) -> BenchResult:
    """Return the result; ``busy`` is how many cores others used before the runs."""
    pooled = {name: [one for run in runs for one in run.outcomes] for name, runs in measured.runs.items()}
    scales = {name: slo_scale(outcomes) for name, outcomes in pooled.items()}
    rows = [_row(name, setting, measured.runs[name], pooled[name], scales[OURS]) for name in pooled]
    bars = _bars(measured.runs, scales)
    others = ", ".join(f"{scales[name] / scales[OURS]:.2f}x {name}'s" for name in scales if name != OURS)
    return BenchResult(
        name=f"serving-{setting.kind}",
        figure=f"SLO scale at 95 % attainment: {scales[OURS]:.2f}, better than {others}",
        columns=COLUMNS,
        rows=rows,
        bars=bars,
        repetitions=_scales(measured),
        notes=[*_notes(setting, measured, busy), *_loads(pooled, scales[OURS])],
    )


def _scales(measured: Measured) -> dict[str, list[float]]:
    return {name: [slo_scale(run.outcomes) for run in runs] for name, runs in measured.runs.items()}


def _bars(runs: Mapping[str, Sequence[RunResult]], scales: Mapping[str, float]) -> list[Bar]:
    bars = [Bar("SLO scale @95: fcfs's over ours", scales["fcfs"] / scales[OURS], FCFS_BAR)]
    informed = [scales[name] for name in ("arrival", "edf") if name in scales]
    if informed:
        name = "SLO scale @95: the better of arrival's and edf's over ours"
        bars.append(Bar(name, min(informed) / scales[OURS], PRIORITY_BAR))
    ratios = [mine.throughput / theirs.throughput for mine, theirs in zip(runs[OURS], runs["fcfs"], strict=True)]
    bars.append(Bar("tokens/s: ours over fcfs's", median(ratios), THROUGHPUT_BAR))
    return bars


def _row(
    name: str, setting: Setting, runs: Sequence[RunResult], outcomes: Sequence[Outcome], scale: float
) -> Sequence[str | float | int]:
    policy = {"fcfs": "fcfs", OURS: "urgency"}.get(name, "priority")
    latencies = [one.latency for one in outcomes]
    return [
        name,
        setting.slots[policy],
        round(slo_scale(outcomes), 2),
        round(slo_scale(outcomes, 0.99), 2),
        f"{attainment(outcomes, scale):.1%}",
        *(round(quantile(latencies, part), 2) for part in (0.5, 0.95)),
        round(median(run.throughput for run in runs), 1),
        sum(run.preemptions for run in runs),
        round(max(one.slowdown for one in outcomes), 1),
        round(tenant_fairness(outcomes), 3),
    ]


def _notes(setting: Setting, measured: Measured, busy: float) -> list[str]:
    step, told = measured.calibration.step_time, measured.told
    workflows = len(measured.runs[OURS][0].outcomes)
    scales = ", ".join(f"{name} {median(told[name]):.2f}" for name in ("edf", OURS) if name in told)
    spread = ", ".join(f"{name} {min(each):.2f} to {max(each):.2f}" for name, each in _scales(measured).items())
    return [
        f"{setting.model} on {setting.device}; {len(measured.runs[OURS])} traces of about {workflows} workflows, token "
        f"counts times {setting.scale.lengths}; arrivals at {', '.join(map(str, LOADS))} of the capacity.",
        f"Capacity of fcfs: {measured.capacity:.2f} workflows/s. A step: {1000 * step.base:.1f} ms, "
        f"{1000 * step.per_prefill:.2f} a prompt token, {1000 * step.per_sequence:.2f} a sequence. "
        f"A workflow alone was {measured.calibration.error:.0%} off what that says.",
        "@95, @99: SLO scales. taken: slots taken from a running call. worst: greatest slowdown.",
        f"@95 over the repeats: {spread}. `on time` is at ours' scale. Deadlines were told at: {scales}.",
        f"Other processes kept {busy:.1f} cores busy before the runs and {other_cpu_share():.1f} after them.",
    ]


def _loads(pooled: Mapping[str, Sequence[Outcome]], scale: float) -> list[str]:
    groups = {name: by_load(outcomes) for name, outcomes in pooled.items()}
    loads = sorted({load for group in groups.values() for load in group})
    return [
        f"at load {load}: "
        + ", ".join(
            f"{name} {slo_scale(group[load]):.2f} ({attainment(group[load], scale):.0%})"
            for name, group in groups.items()
            if load in group
        )
        for load in loads
    ]
