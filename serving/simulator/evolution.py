"""Rewrites a policy's two functions against the simulator: change a part, keep what does better on training traces.

Source of the idea: "Barbarians at the gate: how AI is upending systems research" (arXiv 2510.06189), where a model
rewrites code. Here chance or a model rewrites expressions, which cannot do anything but reckon, and what wins is
believed only after traces that the search never saw, and a real engine.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentsys.errors import cause_in_file
from agentsys.serving.simulator.cluster import Cluster
from agentsys.serving.simulator.contenders import Learned, ours
from agentsys.serving.simulator.expression_policy import FIRST_COST, FIRST_KEY, ExpressionPolicy
from agentsys.serving.simulator.expressions import ExpressionError
from agentsys.serving.simulator.proposers import Mutator, Proposer
from agentsys.serving.simulator.search import SearchStateError, identity, needed
from agentsys.serving.simulator.simulation import SimulationError
from agentsys.serving.simulator.trace import Trace
from agentsys.serving.torch_engine.limits import Tuning

SURVIVORS: Final = 4


@dataclass(frozen=True, slots=True)
class Bench:
    """What policies are tried on: our dispatcher with ``slots`` a replica, deadlines told at ``scale``."""

    cluster: Cluster
    learned: Learned
    slots: int
    scale: float

    def score(self, policy: ExpressionPolicy, traces: Sequence[Trace]) -> float:
        """Return what :func:`needed` does; infinite for a policy under which the simulation cannot go on."""
        contender = ours(self.slots, self.learned, policy=policy, tuning=Tuning(), name="evolved")
        try:
            return needed(contender, traces, self.cluster, self.scale)
        except SimulationError:
            return math.inf

    def identity(self, traces: Sequence[Trace], **options: float | str) -> str:
        """Return a digest of what scores on these traces depend on, and of further options."""
        return identity(traces, self.cluster, slots=self.slots, scale=self.scale, **options)


@dataclass(slots=True)
class Evolution:
    """The state of a search: the best so far by score on the training traces; ``belongs_to`` is its identity."""

    seed: int
    belongs_to: str = ""
    generation: int = 0
    population: list[tuple[float, ExpressionPolicy]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        data: dict[str, Any] = {
            "seed": self.seed,
            "belongs_to": self.belongs_to,
            "generation": self.generation,
            "population": [{"score": score, **policy.to_json()} for score, policy in self.population],
        }
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    @staticmethod
    def load(path: Path, belongs_to: str) -> Evolution:
        """Read what :meth:`save` wrote for the same search. Raises :class:`SearchStateError`."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kept = [(float(one["score"]), ExpressionPolicy.of(one["key"], one["cost"])) for one in data["population"]]
            state = Evolution(int(data["seed"]), str(data["belongs_to"]), int(data["generation"]), kept)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ExpressionError) as error:
            raise SearchStateError(f"{path} is no state of `agentsys evolve`: {cause_in_file(error)}.") from error
        if state.belongs_to != belongs_to:
            raise SearchStateError(
                f"{path} is of a search with other traces, seed, slots, scale, children or proposer."
            )
        return state


def first_policy() -> ExpressionPolicy:
    """Return the policy in use, as expressions: what every search begins with."""
    return ExpressionPolicy.of(FIRST_KEY, FIRST_COST)


def evolve(
    state: Evolution,
    bench: Bench,
    traces: Sequence[Trace],
    *,
    generations: int,
    children: int = 6,
    proposer: Proposer | None = None,
    after: Callable[[Evolution], None] = lambda _state: None,
) -> ExpressionPolicy:
    """Search on from ``state`` and return the best on the training traces; ``after`` is called with each generation.

    ``proposer`` is a :class:`Mutator` by default. Every generation draws by its own number, so a search that was
    interrupted ends as it would have otherwise.
    """
    proposer = proposer or Mutator()
    if not state.population:
        first = first_policy()
        state.population = [(bench.score(first, traces), first)]
    while state.generation < generations:
        chance = random.Random(f"{state.seed}:{state.generation}")  # noqa: S311 - reproducible, not secret
        known = {str(policy.to_json()): (score, policy) for score, policy in state.population}
        for child in proposer.propose(state.population, children, chance):
            if str(child.to_json()) not in known:
                known[str(child.to_json())] = (bench.score(child, traces), child)
        ranked = sorted(known.values(), key=lambda one: (one[0], _size(one[1])))
        state.population = ranked[:SURVIVORS]
        state.generation += 1
        after(state)
    return state.population[0][1]


def _size(policy: ExpressionPolicy) -> int:
    return policy.key_expression.size + policy.cost_expression.size
