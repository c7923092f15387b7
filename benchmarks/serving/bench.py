"""``agentsys bench serving``: SLO scales of the arms on one engine, interleaved, over the same seeded traces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import Any, Final, get_args

from rich.console import Console
from rich.progress import Progress, TaskID

from agentsys.benchmarks.harness import BenchResult, Options, other_cpu_share
from agentsys.benchmarks.serving.arms import Arm, baselines, ours
from agentsys.benchmarks.serving.calibration import Measured, calibrate, capacity_of
from agentsys.benchmarks.serving.driver import Plan, run
from agentsys.benchmarks.serving.figures import RunResult, slo_scale
from agentsys.benchmarks.serving.fleet import Kind, Setting, enter_vllm_environment, policies, start
from agentsys.benchmarks.serving.pacing import isolated_seconds, paced, phases, renamed
from agentsys.benchmarks.serving.report import report
from agentsys.errors import ConfigurationError
from agentsys.serving.engine import Engine

SLOTS: Final[Mapping[str, Mapping[str, int]]] = {
    "vllm": {"fcfs": 12, "priority": 6, "urgency": 16},
    "torch": {"fcfs": 16, "urgency": 16},
}
"""Of the others the best of the simulator with step times as of two cores, of ours the engine's own, of which it runs
as many as pay. Elsewhere sweep `--set fcfs=N` and `--set priority=N`."""

_FIRST_TOLD: Final = 2.0
_QUEUED_A_SLOT: Final = 5
"""So many workflows at once for each slot of an engine keep all of them busy while its capacity is measured."""
_PILOT_SEED: Final = 500


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run: seconds of a trace, the least workflows it may have, repeats, workflows of the calibration,
    and pilots of the told scale."""

    seconds: float
    least: int
    repeats: int
    alone: int
    together: int
    pilots: int


FULL: Final = Size(seconds=36.0, least=30, repeats=5, alone=8, together=60, pilots=2)
QUICK: Final = Size(seconds=12.0, least=10, repeats=1, alone=3, together=16, pilots=1)


def main(options: Options) -> BenchResult:
    """Measure; ``arguments``: ``engine`` (vllm or torch), ``device`` (cpu or cuda), ``model``, ``weights=random``,
    ``fcfs``, ``priority`` and ``urgency`` (slots), ``seconds`` (of a trace), ``python`` (that has vLLM),
    ``compile=no`` (vLLM on a GPU starts sooner, with graphs of its decoding steps alone)."""
    setting = _setting(options.arguments)
    if setting.kind == "vllm":
        enter_vllm_environment(options.arguments)
    size = QUICK if options.quick else FULL
    size = replace(
        size,
        seconds=float(options.arguments.get("seconds", size.seconds)),
        repeats=size.repeats if options.quick else options.repeats,
        together=size.together if options.quick else max(size.together, _QUEUED_A_SLOT * max(setting.slots.values())),
    )
    busy = other_cpu_share()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        measured = asyncio.run(_measure(setting, size, progress))
    return report(setting, measured, busy)


async def _measure(setting: Setting, size: Size, progress: Progress) -> Measured:
    task = progress.add_task("starting engines", total=None)
    engines: dict[str, Engine] = {}
    try:
        for policy in policies(setting.kind):
            engines[policy] = await asyncio.to_thread(start, setting, policy)
        return await _measure_on(engines, setting, size, progress, task)
    finally:
        for engine in engines.values():
            await engine.close()


async def _measure_on(
    engines: Mapping[str, Engine], setting: Setting, size: Size, progress: Progress, task: TaskID
) -> Measured:
    arms = [*baselines(engines), ours(engines["urgency"], setting.slots["urgency"])]
    progress.update(task, description="calibrating")
    calibration = await calibrate(arms[-1], size.alone, size.together, setting.scale)
    capacity = await capacity_of(arms[0], size.together, "capacity", setting.scale)
    measured = Measured(
        setting.scale, calibration, capacity, {arm.name: [] for arm in arms}, {arm.name: [] for arm in arms}
    )
    told = await _pilots(arms, measured, size, progress, task)
    progress.update(task, total=size.repeats * len(arms), completed=0)
    for repeat in range(size.repeats):
        for arm in arms if repeat % 2 == 0 else reversed(arms):
            progress.update(task, description=f"repeat {repeat + 1}: {arm.name}")
            scale = geometric_mean(told[arm.name])
            result = await _run(arm, measured, size, repeat, scale, f"r{repeat}-{arm.name}")
            _say(progress, f"repeat {repeat + 1} of {size.repeats}, {arm.name}", result)
            measured.runs[arm.name].append(result)
            measured.told[arm.name].append(scale)
            told[arm.name].append(slo_scale(result.outcomes))
            progress.advance(task)
    return measured


async def _pilots(
    arms: Sequence[Arm], measured: Measured, size: Size, progress: Progress, task: TaskID
) -> dict[str, list[float]]:
    """Find for each arm the scale that it attains when it is told that scale; the repeats go on with it."""
    told = {arm.name: [_FIRST_TOLD] for arm in arms}
    for pilot in range(size.pilots):
        for arm in arms:
            if arm.told:
                progress.update(task, description=f"pilot {pilot + 1}: {arm.name}")
                result = await _run(arm, measured, size, _PILOT_SEED, told[arm.name][-1], f"p{pilot}-{arm.name}")
                _say(progress, f"pilot {pilot + 1} of {size.pilots}, {arm.name}", result)
                told[arm.name] = [slo_scale(result.outcomes)]
    return told


def _say(progress: Progress, what: str, result: RunResult) -> None:
    """Leave a line about a run: where stderr is a file, nothing else tells how far this has come."""
    said = f"{what}: scale {slo_scale(result.outcomes):.1f}, {len(result.outcomes)} workflows in {result.seconds:.0f} s"
    progress.console.print(said, style="dim", highlight=False)


async def _run(arm: Arm, measured: Measured, size: Size, seed: int, told: float, name: str) -> RunResult:
    plan = phases(max(size.seconds, size.least / measured.capacity))
    trace = renamed(paced(seed, plan, measured.capacity, measured.lengths), name)
    isolated = isolated_seconds(trace, measured.calibration.call_seconds)
    return await run(
        arm.engine, arm.urgency, Plan(trace, isolated, plan, measured.lengths.told_tokens, told), on_end=arm.ended
    )


def _setting(arguments: Mapping[str, str]) -> Setting:
    kind: Any = arguments.get("engine", "")
    if kind not in get_args(Kind):
        raise ConfigurationError(f"There is no engine {kind!r} to measure.", remedy="Pass --engine vllm or torch.")
    device: Any = arguments.get("device", "cpu")
    if device not in ("cpu", "cuda"):
        raise ConfigurationError(f"There is no device {device!r}.", remedy="Pass --device cpu or cuda.")
    slots = {policy: int(arguments.get(policy, most)) for policy, most in SLOTS[kind].items()}
    random = arguments.get("weights") == "random"
    compiled = arguments.get("compile") != "no"
    return Setting(kind, arguments.get("model", "smollm2-135m"), slots, device, random, compiled)
