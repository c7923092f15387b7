"""Two results of one benchmark beside each other: medians, the change with its interval, and a plot.

The interval is the 95 % percentile bootstrap of the ratio of medians (Efron and Tibshirani, 1993, chapter 13). A change
counts only where the interval leaves out 1; beside a median of 0 there is no ratio. Results of unlike machines are
refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from agentsys.errors import ConfigurationError, cause_in_file

SAME_MACHINE = ("processor", "cores", "memory_gib")
RESAMPLES = 10_000

_NEEDS_TEX: Final = {"pgf"}


class Incomparable(ConfigurationError):
    """Two benchmark results say nothing about each other."""

    code = "AGS-0120"
    remedy = "Run the benchmark twice on one machine, keeping each run's file with --output."


@dataclass(frozen=True, slots=True)
class Change:
    """One arm's medians before and after; ``ratio`` is after ÷ before, with its 95 % interval, where there is one."""

    arm: str
    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        if self.ratio is None or self.low is None or self.high is None:
            return "no ratio to 0"
        if self.low <= 1.0 <= self.high:
            return "no difference shown"
        return "higher" if self.ratio > 1 else "lower"


def load_result(path: Path) -> dict[str, Any]:
    """Read a result file. Raises :class:`Incomparable` if it is none."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        result["name"], dict(result["fingerprint"])
        result["repetitions"] = {arm: [*map(float, values)] for arm, values in result["repetitions"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Incomparable(
            f"{path} is no benchmark result: {cause_in_file(error)}.",
            remedy="Pass files that `agentsys bench NAME` wrote.",
        ) from error
    return result


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Return the change of every arm that both results have. Raises :class:`Incomparable`."""
    if before["name"] != after["name"]:
        raise Incomparable(f"One file is of {before['name']}, the other of {after['name']}.")
    unlike = [
        f"{key} {before['fingerprint'].get(key)!r} and {after['fingerprint'].get(key)!r}"
        for key in SAME_MACHINE
        if before["fingerprint"].get(key) != after["fingerprint"].get(key)
    ]
    if unlike:
        raise Incomparable(f"The machines differ: {'; '.join(unlike)}.")
    shared = [arm for arm, values in before["repetitions"].items() if values and after["repetitions"].get(arm)]
    if not shared:
        raise Incomparable("The two results have no arm in common that was repeated.")
    return [change_of(arm, before["repetitions"][arm], after["repetitions"][arm]) for arm in shared]


def change_of(arm: str, before: Sequence[float], after: Sequence[float]) -> Change:
    """Return one arm's change; the resampling has a fixed seed, so equal files give equal intervals."""
    generator = np.random.default_rng(0)
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    above, below = _resampled_medians(generator, second), _resampled_medians(generator, first)
    middle = float(np.median(first)), float(np.median(second))
    if not (middle[0] and below.all()):
        return Change(arm, *middle, None, None, None)
    low, high = np.percentile(above / below, [2.5, 97.5])
    return Change(arm, *middle, middle[1] / middle[0], float(low), float(high))


def check_image(path: Path) -> None:
    """Raise :class:`ConfigurationError` where :func:`plot` could draw no file whose name ends as that of ``path``."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "Matplotlib draws the image and is not installed.", remedy="pip install 'agentsys-runtime[bench]'"
        ) from error
    suffixes = {f".{name}" for name in Figure().canvas.get_supported_filetypes().keys() - _NEEDS_TEX}
    if path.suffix.lower() not in suffixes:
        raise ConfigurationError(
            f"The name of an image ends in its format, and {path.name} in none that can be drawn.",
            remedy=f"Name a file that ends in one of: {', '.join(sorted(suffixes))}.",
        )


def plot(changes: Sequence[Change], before: dict[str, Any], after: dict[str, Any], path: Path) -> None:
    """Draw every repetition of both results, one line an arm, into an image file, in the format that its name tells."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.6 * len(changes)), layout="constrained")
    axes = figure.subplots()
    for position, change in enumerate(reversed(changes)):
        for result, offset, marker in ((before, 0.15, "o"), (after, -0.15, "D")):
            values = result["repetitions"][change.arm]
            axes.scatter(values, [position + offset] * len(values), marker=marker, s=18, alpha=0.6, color="black")
            axes.scatter([float(np.median(values))], [position + offset], marker="|", s=300, color="black")
    axes.set_yticks(range(len(changes)), [change.arm for change in reversed(changes)])
    axes.set_title(f"{before['name']}: before (circles), after (diamonds), medians (bars)", loc="left", fontsize=10)
    axes.set_xlim(left=0)
    figure.savefig(path)


def _resampled_medians(generator: np.random.Generator, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    drawn = generator.integers(0, len(values), (RESAMPLES, len(values)))
    medians: np.ndarray[Any, Any] = np.median(values[drawn], axis=1)
    return medians
