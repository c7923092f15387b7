"""All attacks, and what becomes of one: against the runtime as it is, and under the fault that lets it through."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agentsys.benchmarks.ifc.attacks.case import Case
from agentsys.benchmarks.ifc.attacks.families import FAMILIES
from agentsys.benchmarks.ifc.attacks.faults import WEAKENINGS
from agentsys.benchmarks.ifc.attacks.stage import Stage
from agentsys.benchmarks.ifc.attacks.weakenings import weakened


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a case: whether it won against the runtime as it is, and against the planted fault."""

    case: Case
    won: bool
    won_weakened: bool


@cache
def all_cases() -> tuple[Case, ...]:
    """Return every case. Raises ``ValueError`` for two of one name, or one under an unknown weakening."""
    found = [case for family in FAMILIES for case in family()]
    names = [case.title for case in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted({case.under for case in found} - set(WEAKENINGS))
    if twice or unknown:
        raise ValueError(f"named twice: {twice}; no such weakening: {unknown}")
    return tuple(found)


def try_case(case: Case) -> Tried:
    """Play a case against the runtime as it is, then against its weakening, each in a world of its own."""
    return Tried(case, wins(case, None), wins(case, case.under))


def wins(case: Case, under: str | None) -> bool:
    """Play a case, with a fault planted if one is given, and say whether the attack won."""
    with tempfile.TemporaryDirectory(prefix="agentsys-attack-") as folder, weakened(under):
        return asyncio.run(_played(case, Stage(Path(folder))))


async def _played(case: Case, stage: Stage) -> bool:
    try:
        await case.play(stage)
        return case.won(stage)
    finally:
        stage.close()
