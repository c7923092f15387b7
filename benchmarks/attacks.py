"""``agentsys bench attacks``: our own attacks on information flow, none of which may win, and each of which can.

The cases are in :mod:`agentsys.benchmarks.ifc.attacks`; ``docs/security-attacks.md`` says what they cover.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.progress import track

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.benchmarks.ifc.attacks.case import Case
from agentsys.benchmarks.ifc.attacks.suite import Tried, all_cases, try_case
from agentsys.errors import ConfigurationError

LEAST: Final = 150
"""Cases that the suite must have."""

QUICK: Final = 11
"""Of how many cases a quick run plays one."""


def main(options: Options) -> BenchResult:
    """Play every case twice; ``--quick`` plays one in eleven, ``--set family=NAME`` those of one family."""
    family = options.arguments.get("family")
    chosen = chosen_cases(quick=options.quick, family=family)
    started = time.perf_counter()
    shown = track(chosen, "attacks", console=Console(stderr=True), transient=True)
    tried = [try_case(case) for case in shown]
    seconds = time.perf_counter() - started
    won, dull = [one for one in tried if one.won], [one for one in tried if not one.won_weakened]
    partial = options.quick or family is not None
    return BenchResult(
        name="attacks",
        figure=f"{len(won)} of {len(tried)} attacks won; {len(tried) - len(dull)} win where their fault is planted",
        columns=["family", "cases", "won", "won with the fault planted", "faults", "properties"],
        rows=_rows(tried),
        bars=[
            Bar("cases", len(tried), 1 if partial else LEAST),
            Bar("attacks that won", len(won), 0, at_least=False),
            Bar("attacks that win under no fault", len(dull), 0, at_least=False),
        ],
        repetitions={"seconds for all cases, each twice": [seconds]},
        notes=[f"WON: {one.case.title}" for one in won]
        + [f"not won under {one.case.under!r}: {one.case.title}" for one in dull],
    )


def chosen_cases(*, quick: bool = False, family: str | None = None) -> Sequence[Case]:
    """Return the cases to play. Raises :class:`ConfigurationError` for a family that there is not."""
    found = all_cases()
    families = sorted({case.family for case in found})
    if family is not None and family not in families:
        raise ConfigurationError(
            f"There is no family of attacks {family!r}.", remedy=f"Choose one of: {', '.join(families)}."
        )
    chosen = [case for case in found if family in (None, case.family)]
    return chosen[::QUICK] if quick else chosen


def _rows(tried: Sequence[Tried]) -> list[Sequence[str | float | int]]:
    families = dict.fromkeys(one.case.family for one in tried)
    rows: list[Sequence[str | float | int]] = []
    for family in families:
        here = [one for one in tried if one.case.family == family]
        properties = sorted({one.case.breaks for one in here}, key=lambda name: int(name[1:]))
        rows.append(
            [
                family,
                len(here),
                sum(one.won for one in here),
                sum(one.won_weakened for one in here),
                len({one.case.under for one in here}),
                ", ".join(properties),
            ]
        )
    return rows
