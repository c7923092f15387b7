"""``agentsys bench ifc``: AgentDojo's pairs over the real runtime and a fully gullible model, in six arms."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from agentsys.benchmarks.harness import BenchResult, Options
from agentsys.benchmarks.ifc.arms import FULL, ROWS, Arm, Row
from agentsys.benchmarks.ifc.dojo import SUITES, Pair, attacked, benign
from agentsys.benchmarks.ifc.figures import COLUMNS, Sums, bars, notes, unasked
from agentsys.benchmarks.ifc.trial import Bench, Trial, bench
from agentsys.errors import ConfigurationError

QUICK: Final = 13
"""In a quick run, every so many pairs: coprime with the numbers of tasks, so that all of them come up."""
CHUNK: Final = 8
"""Pairs that a process takes at a time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The pairs of a measurement, and where the boards lie."""

    benign: list[Pair]
    attacked: list[Pair]

    @staticmethod
    def of(options: Options) -> Plan:
        """Return what the command line asks for. Raises :class:`ConfigurationError` for a suite that there is not."""
        wanted = options.arguments.get("suite")
        if wanted is not None and wanted not in SUITES:
            raise ConfigurationError(f"AgentDojo has no suite {wanted!r}.", remedy=f"Choose of {', '.join(SUITES)}.")
        suites = SUITES if wanted is None else (wanted,)
        return Plan(benign(suites), attacked(suites)[:: QUICK if options.quick else 1])


def main(options: Options) -> BenchResult:
    """Run all pairs in all arms. ``--set suite=NAME`` takes one suite, ``--set trials=FILE`` keeps every trial."""
    plan, started = Plan.of(options), time.monotonic()
    kept = options.arguments.get("trials")
    trials = run_all(
        [*plan.benign, *plan.attacked],
        processes=int(options.arguments.get("processes", 0)),
        kept=None if kept is None else Path(kept),
    )
    sums = {row.name: Sums.of(trial for trial in trials if trial.row == row.name) for row in ROWS}
    full = sums[FULL.name]
    return BenchResult(
        name="ifc",
        figure=f"full defence: {full.won} attacks by checker and {full.traced} by trace on {len(full.attacked)} pairs; "
        f"done with no approval: {unasked(full.benign)} of {len(full.benign)} tasks, "
        f"under attack {unasked(full.attacked)} of {len(full.attacked)}",
        columns=COLUMNS,
        rows=[found.row(name) for name, found in sums.items()],
        bars=bars(sums),
        repetitions={"seconds of all arms": [time.monotonic() - started]},
        notes=notes(sums),
    )


def run_all(
    pairs: Sequence[Pair], rows: Sequence[Row] = ROWS, *, processes: int = 0, kept: Path | None = None
) -> list[Trial]:
    """Run pairs for all lines of the comparison, in processes of their own; every trial is ``kept`` once it is over."""
    chunks = [list(pairs[start : start + CHUNK]) for start in range(0, len(pairs), CHUNK)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with (
        tempfile.TemporaryDirectory(prefix="agentsys-ifc-", dir=_memory()) as folder,
        ProcessPoolExecutor(processes or os.cpu_count(), context) as pool,
    ):
        working = [pool.submit(run_chunk, folder, chunk, list(rows)) for chunk in chunks]
        console = Console(stderr=True)
        done = track(as_completed(working), "pairs", len(working), console=console, disable=not console.is_terminal)
        trials = list[Trial]()
        for future in done:
            trials += future.result()
            if kept is not None:
                keep(trials, kept)
        return trials


def run_chunk(folder: str, pairs: list[Pair], rows: list[Row]) -> list[Trial]:
    """Run some pairs in this process, on a board of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own, bench(Path(own)) as opened:
        return [trial for pair in pairs for trial in _trials(opened, pair, rows)]


def _trials(opened: Bench, pair: Pair, rows: list[Row]) -> Iterator[Trial]:
    done = dict[Arm, Trial]()
    for row in rows:
        if pair.injection_task is not None or row.arm not in done:
            done[row.arm] = opened.run(pair, row)
        # Where nobody attacks, all attackers are the same.
        yield replace(done[row.arm], row=row.name)


def keep(trials: Sequence[Trial], path: Path) -> None:
    """Write every trial as a line of JSON."""
    path.write_text("".join(json.dumps(asdict(trial)) + "\n" for trial in trials), encoding="utf-8")


def _memory() -> Path | None:
    """Return a folder in memory, where there is one: the boards are thrown away."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else None
