"""Containment: what each set of walls adds to the start of a program, and what a planted program gets through to."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.containment.process import run_contained
from agentsys.containment.trial import escapes
from agentsys.containment.walls import MEANINGS, Walls, walls_here
from agentsys.errors import RunError
from agentsys.toolbox.python import python_tool

MOST_MILLISECONDS: Final = 100.0
RUNS: Final = 20
_PROGRAM: Final = [sys.executable, "-I", "-c", ""]


def main(options: Options) -> BenchResult:
    """Measure arms in turn, so that what else the machine does falls on all of them alike."""
    here = walls_here()
    sets = {"limits alone": Walls(limits=here.limits)}
    sets |= {"landlock and seccomp": replace(here, bubblewrap="")} if here.landlock else {}
    sets |= {"all of this machine": here}
    arms: dict[str, Callable[[], object]] = {"no containment": lambda: subprocess.run(_PROGRAM, check=True)}
    arms |= {name: _contained(walls) for name, walls in sets.items()}
    arms |= {"run_python, 1 + 1": lambda: _one(python_tool(weak=True).function(code="1 + 1", files={}))}
    took: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.repeats if options.quick else RUNS):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            took[name].append(1000 * (time.perf_counter() - start))
    # The least: what else the machine does meanwhile only adds.
    least = {name: min(figures) for name, figures in took.items()}
    added = least["all of this machine"] - least["no containment"]
    through = {name: sorted(escapes(walls)) for name, walls in sets.items()}
    broken = sum(len(set(through[name]) & walls.held) for name, walls in sets.items())
    return BenchResult(
        name="containment",
        figure=f"{added:.0f} ms a program behind {here}",
        columns=["arm", "ms, least", "median", "most", "a planted program gets through to"],
        rows=[
            [name, least[name], statistics.median(figures), max(figures), ", ".join(through.get(name, []))]
            for name, figures in took.items()
        ],
        bars=[
            Bar("ms that all walls add to a program", added, MOST_MILLISECONDS, at_least=False),
            Bar("what is said to be held and is not", broken, 0, at_least=False),
        ],
        repetitions=took,
        notes=[f"not held here: that a program {MEANINGS[name]}" for name in MEANINGS if name not in here.held],
    )


def _contained(walls: Walls) -> Callable[[], object]:
    return lambda: run_contained(_PROGRAM, walls=walls, require=())


def _one(result: object) -> None:
    if result != {"stdout": "", "value": 2, "error": None}:
        raise RunError(f"The measured program failed: {result}.")
