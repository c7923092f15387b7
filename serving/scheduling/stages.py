"""What is left of a workflow after a stage: learned from instances that ended, or known from its graph.

A stage is a group of calls that run together, a fan-out, say. Stages follow each other as a Markov chain, so a loop
counts as often as it was seen to go round. What is left is the solution of ``left = P · (gap + cost + left)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

START: Final = ""
"""The stage before the first one."""

_END: Final = None
_MEMORY: Final = 200.0  # instances: an older one counts for less than 1/e of a new one
_UNSEEN_END: Final = 0.05
_MOST_STAGES: Final = 256
_STALE: Final = 0.02  # share of new observations after which the chain is solved anew


@dataclass(frozen=True, slots=True)
class Demand:
    """Seconds: along the critical path on an idle replica, and of a fully used replica's time."""

    path: float = 0.0
    work: float = 0.0

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.path + other.path, self.work + other.work)


@dataclass(slots=True)
class _Mean:
    value: float = 0.0
    count: float = 0.0

    def add(self, value: float) -> None:
        self.count = min(self.count + 1.0, _MEMORY)
        self.value += (value - self.value) / self.count


@dataclass(slots=True)
class _Stage:
    path: _Mean = field(default_factory=_Mean)
    work: _Mean = field(default_factory=_Mean)
    next: dict[str | None, float] = field(default_factory=dict)
    gaps: dict[str | None, _Mean] = field(default_factory=dict)

    def follow(self, stage: str | None) -> None:
        total = sum(self.next.values())
        if total > _MEMORY:
            self.next = {name: count * _MEMORY / total for name, count in self.next.items()}
        self.next[stage] = self.next.get(stage, 0.0) + 1.0


class StageHistory:
    """The stages of one kind of workflow."""

    def __init__(self, edges: Mapping[str, Iterable[str | None]] | None = None) -> None:
        """``edges`` are the stages that can follow each, ``None`` for the end; history soon outweighs them."""
        self._stages: dict[str, _Stage] = {}
        self._left: dict[str, Demand] = {}
        self._seen = self._solved_at = 0
        self._latest = START
        for stage, following in (edges or {}).items():
            for name in following:
                self._follow(stage, name)

    def cost(self, stage: str) -> Demand:
        """Return what the stage itself takes, so far as is known."""
        known = self._stages.get(stage)
        return Demand() if known is None else Demand(known.path.value, known.work.value)

    def ended(self, stage: str, demand: Demand) -> None:
        """Learn what a stage took: the longest of its calls, and all of them together."""
        known = self._stage(stage)
        known.path.add(demand.path)
        known.work.add(demand.work)
        self._seen += 1

    def followed(self, stage: str, following: str | None, gap: float) -> None:
        """Learn that ``following`` (``None``: the end) came ``gap`` seconds after ``stage``, of tools or of thought."""
        self._follow(stage, following)
        self._stages[stage].gaps.setdefault(following, _Mean()).add(gap)
        self._seen += 1

    def left(self, stage: str) -> Demand:
        """Return what is expected to be left when ``stage`` has ended."""
        if self._seen - self._solved_at > _STALE * self._seen or not self._left:
            self._left = self._solve()
            self._solved_at = self._seen
        return self._left.get(stage, Demand())

    def _stage(self, name: str) -> _Stage:
        known = self._stages.setdefault(name, _Stage())
        if len(self._stages) > _MOST_STAGES:
            # Names are the callers', who may give each call its own; solving takes their third power.
            oldest = next(one for one in self._stages if one not in (name, self._latest))
            del self._stages[oldest]
            for stage in self._stages.values():
                stage.next.pop(oldest, None)
                stage.gaps.pop(oldest, None)
        self._latest = name
        return known

    def _follow(self, stage: str, following: str | None) -> None:
        self._stage(stage).follow(following)
        if following is not None:
            self._stage(following)

    def _solve(self) -> dict[str, Demand]:
        names = list(self._stages)
        index = {name: position for position, name in enumerate(names)}
        chain = np.zeros((len(names), len(names)))
        ahead = np.zeros((len(names), 2))
        for row, stage in enumerate(self._stages.values()):
            # Every stage may be the last, which keeps a loop that was not seen to end of late from lasting for ever.
            total = sum(stage.next.values()) + max(_UNSEEN_END - stage.next.get(_END, 0.0), 0.0)
            for following, count in stage.next.items():
                part = count / total
                ahead[row, 0] += part * (stage.gaps[following].value if following in stage.gaps else 0.0)
                if following is not None:
                    after = self.cost(following)
                    ahead[row] += part * np.array([after.path, after.work])
                    chain[row, index[following]] = part
        left = np.linalg.solve(np.eye(len(names)) - chain, ahead) if names else ahead
        return {name: Demand(float(left[row, 0]), float(left[row, 1])) for name, row in index.items()}
