"""What every benchmark shares: repetitions, medians, the machine's fingerprint, a table, a JSON file and a verdict."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

VERSIONED_PACKAGES = ("torch", "transformers", "llguidance", "duckdb", "langgraph", "sqlalchemy", "bm25s")


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that ``--check`` demands: ``value`` compared with ``bound`` in the direction of ``at_least``."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(slots=True)
class BenchResult:
    """Result of one benchmark: a table for people, repetitions for machines, bars for ``--check``.

    ``figure`` is the one line printed last.
    """

    name: str
    figure: str
    columns: Sequence[str]
    rows: list[Sequence[str | float | int]]
    bars: list[Bar] = field(default_factory=list)
    repetitions: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line passes to a benchmark."""

    quick: bool = False
    repeats: int = 5
    arguments: Mapping[str, str] = field(default_factory=dict)


def fingerprint() -> dict[str, Any]:
    """Describe machine, versions and command, so that results of unlike hardware are never compared by accident."""
    versions = {name: _version(name) for name in VERSIONED_PACKAGES}
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": versions,
        "command": ["agentsys", *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def interleave(arms: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run every arm ``repeats`` times, reversing the order each round (ABBA), and return each arm's figures."""
    figures: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        order = list(arms.items())
        for name, run in order if repeat % 2 == 0 else reversed(order):
            figures[name].append(run())
    return figures


def median(values: Sequence[float]) -> float:
    """Return the median; an empty sequence raises ``statistics.StatisticsError``."""
    return statistics.median(values)


def other_cpu_share(seconds: float = 0.5) -> float:
    """Return the cores that other processes keep busy, measured over ``seconds`` while this process sleeps."""
    return float(psutil.cpu_percent(interval=seconds)) / 100 * (psutil.cpu_count(logical=True) or 1)


def write_json(result: BenchResult, directory: Path) -> Path:
    """Write the result with its fingerprint; returns the file's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.name}.json"
    payload = {"fingerprint": fingerprint(), **asdict(result)}
    path.write_text(json.dumps(payload, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
