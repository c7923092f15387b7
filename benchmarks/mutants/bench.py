"""``agentsys bench mutants``: one small fault at a time in the policy engine, which its tests must notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.benchmarks.mutants.mutations import Mutant
from agentsys.benchmarks.mutants.targets import ROOT, TESTS, all_mutants, reasons
from agentsys.errors import ConfigurationError

LEAST: Final = 95.0
"""Bar: percent of the mutants, those that are no faults aside, that the tests notice."""
SURVIVES: Final = "survives: "
QUICK_SAMPLE: Final = 10
POLL_SECONDS: Final = 2.0


def main(options: Options) -> BenchResult:
    """Try all mutants, or with ``--quick`` every tenth; ``--set workers=N`` in N processes, by default two.

    ``--set module=NAME,NAME`` tries those of some modules only, ``--set survivors=FILE`` those that survive by an
    earlier result.
    """
    if not (ROOT / TESTS[0]).exists():
        raise ConfigurationError("The tests are not here.", remedy="Run it in a checkout of the repository.")
    tried = _chosen(options)
    outcomes = _try(tried, int(options.arguments.get("workers", "2")))
    equivalent = reasons(tried)
    survivors = [mutant for mutant in tried if outcomes[mutant] == "survived" and mutant not in equivalent]
    faults = [mutant for mutant in tried if mutant not in equivalent]
    score = 100.0 * (len(faults) - len(survivors)) / max(1, len(faults))
    misjudged = [mutant for mutant in equivalent if outcomes[mutant] != "survived"]
    return BenchResult(
        name="mutants",
        figure=f"{score:.1f} % of {len(faults)} faults noticed, {len(survivors)} survive",
        columns=["module", "faults", "noticed", "survive", "no faults"],
        rows=_rows(tried, survivors, equivalent),
        bars=[
            Bar("percent of the faults noticed", score, LEAST),
            Bar("mutants listed as no faults that a test notices", len(misjudged), 0, at_least=False),
        ],
        repetitions={"percent noticed": [score]},
        notes=[f"{SURVIVES}{mutant}" for mutant in survivors] + [f"is a fault: {mutant}" for mutant in misjudged],
    )


def _chosen(options: Options) -> list[Mutant]:
    chosen, given = all_mutants(), options.arguments
    if "module" in given:
        named = set(given["module"].split(","))
        chosen = [mutant for mutant in chosen if named & {mutant.module, *_short(mutant.module)}]
    if "survivors" in given:
        noted = set(json.loads(Path(given["survivors"]).read_text(encoding="utf-8"))["notes"])
        chosen = [mutant for mutant in chosen if f"{SURVIVES}{mutant}" in noted]
    if not chosen:
        raise ConfigurationError(
            f"There are no mutants of {' '.join(given.values())}.",
            remedy="Name a module as the table of a result does, and a result of the code as it is now.",
        )
    return chosen[:: QUICK_SAMPLE if options.quick else int(given.get("sample", "1"))]


def _short(module: str) -> tuple[str, str]:
    return module.removeprefix("agentsys."), module.rpartition(".")[2]


def _try(tried: list[Mutant], workers: int) -> dict[Mutant, str]:
    with tempfile.TemporaryDirectory(prefix="agentsys-mutants-") as folder:
        listed = Path(folder) / "tried.json"
        listed.write_text(json.dumps([[mutant.module, mutant.number] for mutant in tried]), encoding="utf-8")
        files = [Path(folder) / f"{share}.jsonl" for share in range(workers)]
        command = [sys.executable, "-m", "agentsys.benchmarks.mutants.worker"]
        running = [
            subprocess.Popen(
                [*command, str(share), str(workers), str(listed), str(file)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
            for share, file in enumerate(files)
        ]
        _wait(running, files, len(tried))
        said = [process.communicate()[0] for process in running]
        failed = [text for process, text in zip(running, said, strict=True) if process.returncode]
        outcomes = {(module, number): outcome for module, number, outcome in _lines(files)}
    if len(outcomes) != len(tried):
        raise ConfigurationError(
            f"Only {len(outcomes)} of {len(tried)} mutants were tried: {''.join(failed)[-2000:]}",
            remedy="Make the tests pass without any mutant first.",
        )
    return {mutant: outcomes[mutant.module, mutant.number] for mutant in tried}


def _wait(running: list[subprocess.Popen[str]], files: list[Path], total: int) -> None:
    while any(process.poll() is None for process in running):
        time.sleep(POLL_SECONDS)
        done = sum(1 for _ in _lines(files))
        print(f"\r{done} of {total} mutants", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _lines(files: list[Path]) -> Iterator[tuple[str, int, str]]:
    for file in files:
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    yield json.loads(line)


def _rows(
    tried: list[Mutant], survivors: list[Mutant], equivalent: dict[Mutant, str]
) -> list[Sequence[str | float | int]]:
    every = Counter(mutant.module for mutant in tried)
    none = Counter(mutant.module for mutant in equivalent)
    alive = Counter(mutant.module for mutant in survivors)
    return [_row(module, count - none[module], alive[module], none[module]) for module, count in every.items()]


def _row(module: str, faults: int, alive: int, none: int) -> Sequence[str | float | int]:
    return [module.removeprefix("agentsys."), faults, faults - alive, alive, none]
