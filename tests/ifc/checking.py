"""How properties are checked: over many examples, or, where a violation was planted, until one of them shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

ALL_HEALTH_CHECKS = list(HealthCheck)


def holds(property_: Callable[..., None], *, examples: int = 400, **strategies: SearchStrategy[Any]) -> None:
    """Check a property, and shrink a counterexample where that is quick."""
    # As many more or fewer as the profile asks for.
    wanted = max(1, examples * settings().max_examples // 100)
    phases = [Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if examples > 100 else [])]
    limits = settings(max_examples=wanted, deadline=None, suppress_health_check=ALL_HEALTH_CHECKS, phases=phases)
    limits(given(**strategies)(property_))()


def is_violated(property_: Callable[..., None], *, examples: int = 1000, **strategies: SearchStrategy[Any]) -> None:
    """Check that some example violates a property, as it must with a planted fault."""
    limits = settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=ALL_HEALTH_CHECKS,
        phases=[Phase.generate],
        database=None,
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        limits(given(**strategies)(property_))()
