"""Policies on a simulated cluster of four unlike replicas, held-out traces, each policy at its best setting.

Every policy's slots (and HexGen-Flow's α, ours the prefill chunk) are chosen on a training trace. The figure is the SLO
scale: the smallest scale of the deadlines, 0.6, 1.2 or 3 times the isolated time, at which 95 % of the workflows are on
time. Beside it stand a bound that no policy exceeds, the error of the simulator against the real torch engine, and what
scheduling and dispatching cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from rich.console import Console

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.benchmarks.simulate_cost import placements_per_second, scheduler_milliseconds
from agentsys.benchmarks.simulate_fidelity import Fidelity, fidelity
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS
from agentsys.serving.simulator.bounds import attainment_bound, fluid_jobs, mean_latency_bound
from agentsys.serving.simulator.cluster import HETEROGENEOUS
from agentsys.serving.simulator.contenders import ALPHAS, RIVALS, Contender, Learned, hexgen, learn, ours, rival
from agentsys.serving.simulator.profile import StageProfile
from agentsys.serving.simulator.results import SimulationResult
from agentsys.serving.simulator.slo import STEP, Runs, best, capacity
from agentsys.serving.simulator.trace import Trace
from agentsys.serving.simulator.workload import Arrivals, WorkloadSpec, generate
from agentsys.serving.torch_engine.limits import Tuning

SLOTS: Final = (8, 12, 16, 32)
CHUNKS: Final = (256, 512, 2048)
CAPACITY_SLOTS: Final = 32
TRAINING_SEED: Final = 1000
LOADS: Final = (0.6, 0.8, 1.0, 1.1)
TRAINING_SCALE: Final = 5.0
BOUND_SCALES: Final = (3.0, 4.0, 5.0, 6.0)
BOUND_BAR_SCALE: Final = 5.0
HEXGEN: Final = "HexGen-Flow"
OURS: Final = "ours"


@dataclass(slots=True)
class Study:
    """The workload at one load, and what is learned of its training trace."""

    rate: float
    traces: list[Trace]
    training: Trace
    profile: StageProfile
    learned: Learned
    console: Console = field(default_factory=lambda: Console(stderr=True))
    quick: bool = False

    @staticmethod
    def at(rate: float, seeds: int, workflows: int, arrivals: Arrivals = "poisson", *, quick: bool = False) -> Study:
        training = generate(WorkloadSpec(workflows, rate, arrivals, seed=TRAINING_SEED))
        return Study(
            rate=rate,
            traces=[generate(WorkloadSpec(workflows, rate, arrivals, seed=seed)) for seed in range(1, seeds + 1)],
            training=training,
            profile=StageProfile.of(training, HETEROGENEOUS.call_seconds),
            learned=learn(training, HETEROGENEOUS),
            quick=quick,
        )

    @property
    def slots(self) -> tuple[int, ...]:
        """The numbers of slots that are tried."""
        return SLOTS[1::2] if self.quick else SLOTS

    def say(self, what: str) -> None:
        self.console.print(f"[dim]load of {self.rate:.2f} workflows/s: {what}[/]", highlight=False)

    def candidates(self) -> dict[str, list[Contender]]:
        """Return every policy at each of its settings."""
        found = {
            name: [rival(name, build, self.profile, slots, preemptive=preemptive) for slots in self.slots]
            for name, (build, preemptive) in RIVALS.items()
        }
        found[HEXGEN] = list(self._hexgen())
        found[OURS] = list(self._ours())
        return found

    def best(self) -> dict[str, Contender]:
        """Return every policy at the setting that is best on the training trace."""
        chosen = {}
        for name, settings in self.candidates().items():
            self.say(f"choosing the setting of {name}")
            chosen[name] = best(settings, self.training, HETEROGENEOUS, TRAINING_SCALE)
        return chosen

    def runs(self, contender: Contender) -> Runs:
        return Runs(contender, self.traces, HETEROGENEOUS, self.say)

    def _hexgen(self) -> Iterator[Contender]:
        for slots in self.slots:
            for alpha in ALPHAS[::2] if self.quick else ALPHAS:
                one = rival(HEXGEN, hexgen(alpha), self.profile, slots, preemptive=False)
                one.setting = f"{slots} slots, α {alpha}"
                yield one

    def _ours(self) -> Iterator[Contender]:
        for slots in self.slots:
            for chunk in CHUNKS[1:2] if self.quick else CHUNKS:
                one = ours(slots, self.learned, tuning=Tuning(prefill_chunk=chunk))
                one.setting = f"{slots} slots, chunk {chunk}"
                yield one


def main(options: Options) -> BenchResult:
    """Compare; ``arguments`` may set ``load`` (0.8), ``seeds`` (3), ``workflows`` (300), ``engine`` (torch; none skips
    the comparison with the real engine)."""
    load = float(options.arguments.get("load", "0.8"))
    seeds = int(options.arguments.get("seeds", "1" if options.quick else "3"))
    workflows = int(options.arguments.get("workflows", "120" if options.quick else "300"))
    most = capacity(HETEROGENEOUS, CAPACITY_SLOTS, workflows=workflows)
    study = Study.at(load * most, seeds, workflows, quick=options.quick)
    chosen = study.best()
    runs = {name: study.runs(contender) for name, contender in chosen.items()}
    scales = {name: (one.slo_scale(0.95), one.slo_scale(0.99)) for name, one in runs.items()}
    table = [_row(name, runs[name], *scales[name]) for name in runs]
    bars = scale_bars(scales)
    bound_notes, bound_bar = _against_bound(study, chosen[OURS])
    fairness_notes, fairness_bars = _other_loads(chosen[OURS], most, seeds, workflows, study)
    checked = fidelity(options) if options.arguments.get("engine", "torch") == "torch" else None
    placed, step = placements_per_second(), scheduler_milliseconds()
    bars += [
        bound_bar,
        *fairness_bars,
        *fidelity_bars(checked),
        Bar("scheduler, ms a step at 256 waiting", step, 1.0, at_least=False),
        Bar("dispatcher, placements/s on one core", placed, 5000.0),
    ]
    better = [100 * (1 - scales[OURS][place] / scales[HEXGEN][place]) for place in (0, 1)]
    return BenchResult(
        name="simulate",
        figure=f"SLO scale {better[0]:.0f} % below HexGen-Flow's at 95 %, {better[1]:.0f} % at 99 %, load {load:g}",
        columns=["policy", "best setting", "SLO scale @95", "@99", "attainment", "P50 s", "P95 s", "worst slowdown"],
        rows=table,
        bars=bars,
        notes=[
            f"{seeds} held-out traces of {workflows} workflows, Poisson at {study.rate:.2f}/s; the cluster ends "
            f"{most:.2f}/s of them at most ({CAPACITY_SLOTS} slots, least work). Attainment and latencies are at scale "
            f"{TRAINING_SCALE:g}.",
            *bound_notes,
            *fairness_notes,
            *([] if checked is None else checked.notes),
        ],
    )


def _row(name: str, runs: Runs, at95: float, at99: float) -> Sequence[str | float | int]:
    place = place_of(TRAINING_SCALE) if runs.contender.uses_deadlines else 0
    records = runs.workflows(place)
    results = runs.at(place)
    on_time = fmean(one.slowdown <= TRAINING_SCALE * one.tightness for one in records)
    p50, p95 = (fmean(result.latency(part) for result in results) for part in (0.5, 0.95))
    worst = max(result.worst_slowdown for result in results)
    return [name, runs.contender.setting, at95, at99, round(on_time, 3), p50, p95, worst]


def place_of(scale: float) -> int:
    """Return the place of a scale on the grid, the nearest below."""
    place = 0
    while STEP ** (place + 1) <= scale:
        place += 1
    return place


def scale_bars(scales: dict[str, tuple[float, float]]) -> list[Bar]:
    """Return the bars on SLO scales, at 95 and at 99 %, by policy."""
    return [
        Bar(
            f"SLO scale @{part}, % below HexGen-Flow's",
            100 * (1 - scales[OURS][place] / scales[HEXGEN][place]),
            bar,
        )
        for place, part, bar in ((0, 95, 25.0), (1, 99, 35.0))
    ]


def _against_bound(study: Study, contender: Contender) -> tuple[list[str], Bar]:
    notes, bar = [], 0.0
    for scale in BOUND_SCALES:
        study.say(f"bound at scale {scale:g}")
        reached = fmean(contender.run(trace, HETEROGENEOUS, scale).attainment for trace in study.traces)
        jobs = [fluid_jobs(trace, HETEROGENEOUS, contender.slots, scale) for trace in study.traces]
        bound = fmean(attainment_bound(one) for one in jobs)
        notes.append(f"At scale {scale:g}: attainment {reached:.3f}; no policy exceeds {bound:.3f}.")
        if scale == BOUND_BAR_SCALE:
            bar = reached / bound
    least = fmean(mean_latency_bound(one) for one in jobs)
    notes.append(f"No policy's mean latency is below {least:.1f} s.")
    return notes, Bar(f"attainment at scale {BOUND_BAR_SCALE:g}, share of the relaxed optimum", bar, 0.9)


def _other_loads(
    contender: Contender, most: float, seeds: int, workflows: int, study: Study
) -> tuple[list[str], list[Bar]]:
    """Run ours at every load and kind of arrival, and look for starvation and unfairness."""
    results: dict[str, list[SimulationResult]] = {}
    for load in LOADS[1::2] if study.quick else LOADS:
        for arrivals in ("poisson", "bursty", "diurnal"):
            study.say(f"ours at load {load:g}, {arrivals}")
            spec = [WorkloadSpec(workflows, load * most, arrivals, seed=seed) for seed in range(1, seeds + 1)]
            results[f"{load:g} {arrivals}"] = [
                contender.run(generate(one), HETEROGENEOUS, TRAINING_SCALE) for one in spec
            ]
    every = [result for found in results.values() for result in found]
    longest = max(record.latency for result in every for record in result.workflows)
    notes = [
        f"Load {name}: attainment {fmean(one.attainment for one in found):.3f}, worst slowdown "
        f"{max(one.worst_slowdown for one in found):.1f}, Jain {min(one.fairness() for one in found):.3f}."
        for name, found in results.items()
    ]
    return notes, [
        Bar("longest workflow of all runs, share of the cap on waiting", longest / LONGEST_WAIT_SECONDS, 1.0, False),
        Bar("Jain's index over tenants, least of all runs", min(result.fairness() for result in every), 0.9),
    ]


def fidelity_bars(checked: Fidelity | None) -> list[Bar]:
    """Return the bars on the simulator's error, none if it was not compared."""
    if checked is None:
        return []
    return [
        Bar("simulator's error of P50, %", checked.error(0.5), 10.0, at_least=False),
        Bar("simulator's error of P95, %", checked.error(0.95), 15.0, at_least=False),
    ]
