"""What is mutated, by which tests it is judged, and which mutants are no faults."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from agentsys.benchmarks.mutants.mutations import Mutant, mutants_of
from agentsys.benchmarks.structure import PACKAGE

ROOT: Final = PACKAGE.parent
TESTS: Final = (
    "tests/ifc/test_declarations.py",
    "tests/ifc/test_p01_lattice.py",
    "tests/ifc/test_decisions.py",
    "tests/ifc/test_places.py",
    "tests/ifc/test_links.py",
    "tests/ifc/test_policies.py",
    "tests/ifc/test_hiding.py",
    "tests/ifc/test_asking.py",
    "tests/ifc/test_records.py",
    "tests/ifc/test_addresses_and_secrets.py",
    "tests/ifc/test_p08_endorsers.py",
    "tests/ifc/test_p12_errors_deny.py",
    "tests/ifc/test_p14_monotone_policy.py",
    "tests/core/test_handles.py",
    "tests/core/test_gateway.py",
    "tests/core/test_channels.py",
    "tests/core/test_sources.py",
    "tests/core/test_planner.py",
    "tests/core/test_memoisation.py",
    "tests/runtime/test_sagas.py",
    "tests/runtime/test_vouching.py",
    "tests/runtime/test_approvals.py",
)
"""The fast ones, those that notice faults of declarations first."""

EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")

WHOLE: Final = (
    "agentsys.blackboard.labels",
    "agentsys.paths",
    "agentsys.handles",
    "agentsys.quotas",
    "agentsys.ruling",
    "agentsys.gateway",
    *(
        f"agentsys.policy.{name}"
        for name in ["documents", "domains", "endorsers", "links", "addresses", "policy", "rules"]
    ),
)
"""The rest of :mod:`agentsys.policy` advises people who write policies, and decides nothing."""

DECIDING: Final = {
    "agentsys.tool_calling": (
        "call call_hidden reveal visible _call _make_call _parts _handle _decide_call _begin_call _approved"
    ),
    "agentsys.model_asking": "choose endorse _endorser _endorse _extract_hidden _quarantined _ask_model _bounded",
}
"""The functions of other modules that decide, or say what label a value gets."""


@cache
def all_mutants() -> list[Mutant]:
    """Return the mutants of the whole policy engine, always in one order."""
    return [
        mutant
        for module, functions in [*((name, None) for name in WHOLE), *DECIDING.items()]
        for mutant in mutants_of(
            module,
            path_of(module).read_text(encoding="utf-8"),
            None if functions is None else frozenset(functions.split()),
        )
    ]


def path_of(module: str) -> Path:
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")


def reasons(mutants: Iterable[Mutant]) -> dict[Mutant, str]:
    """Return which of ``mutants`` change nothing that anybody can see, and why, from the reviewed list."""
    reviewed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutants"]
    known = {(one["module"], one["function"], one["before"], one["after"]): one["reason"] for one in reviewed}
    found = {}
    for mutant in mutants:
        reason = known.get((mutant.module, mutant.function, mutant.before, mutant.after))
        if reason is not None:
            found[mutant] = reason
    return found
