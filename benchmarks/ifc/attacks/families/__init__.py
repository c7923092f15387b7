"""The attacks by family; each module has a function ``cases``."""

from collections.abc import Callable

from agentsys.benchmarks.ifc.attacks.case import Case
from agentsys.benchmarks.ifc.attacks.families import (
    approved,
    delivered,
    graphs,
    links,
    passed_on,
    peers,
    planned,
    policies,
    recorded,
    secrets,
    through_board,
    values,
    vouched,
)

FAMILIES: tuple[Callable[[], list[Case]], ...] = (
    delivered.cases,
    through_board.cases,
    passed_on.cases,
    graphs.cases,
    values.cases,
    vouched.cases,
    secrets.cases,
    policies.cases,
    links.cases,
    approved.cases,
    peers.cases,
    planned.cases,
    recorded.cases,
)
