"""A replica on a virtual clock: the real scheduler of an engine, whose steps take as long as a fitted model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentsys.serving.scheduling.calls import ReplicaSpec


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """A call as an engine gets it. ``segments`` are the prompt's parts as first token and count.

    ``completion_tokens`` is how long the answer will be, which no policy is told. ``arrival`` numbers the calls in
    order of submission.
    """

    call_id: str
    segments: Sequence[tuple[int, int]]
    completion_tokens: int
    urgency: float
    arrival: int
    domain: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the steps up to ``at`` came to.

    ``tokens`` are the answer's so far, of each call that got one; ``ended`` are the calls that were answered, each
    with the tokens of its prompt that were found in the prefix cache.
    """

    at: float
    tokens: Mapping[str, int]
    ended: Mapping[str, int]


@dataclass(slots=True)
class ReplicaTotals:
    """Work of a replica: steps, schedules (fewer, if steady decoding is skipped over), seconds, tokens."""

    steps: int = 0
    schedules: int = 0
    busy_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Stretch:
    """Steps of equal shape, one after another: each of ``decoding`` sequences gets a token in every one."""

    began: float
    steps: int
    first_seconds: float
    growth_seconds: float

    def seconds(self, steps: int) -> float:
        """Return how long the first ``steps`` steps take; each takes ``growth_seconds`` longer than the one before."""
        return steps * self.first_seconds + self.growth_seconds * steps * (steps - 1) / 2

    @property
    def end(self) -> float:
        return self.began + self.seconds(self.steps)

    def done_by(self, now: float) -> int:
        """Return how many steps have ended by ``now``."""
        low, high = 0, self.steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.began + self.seconds(middle) <= now:
                low = middle
            else:
                high = middle - 1
        return low


class SimulatedReplica(Protocol):
    """An engine's scheduler on the virtual clock.

    Commands take effect at the end of the step in progress, as in the real engines. The simulation calls
    :meth:`begin` when the replica is idle, and :meth:`finish` at the time that :attr:`busy_until` names.
    """

    spec: ReplicaSpec
    totals: ReplicaTotals
    busy_until: float | None

    def submit(self, call: SimulatedCall, now: float) -> None:
        """Queue a call."""
        ...

    def abort(self, call_id: str, now: float) -> None:
        """Forget a call; unknown ids are ignored."""
        ...

    def rekey(self, call_id: str, urgency: float, now: float) -> None:
        """Change a call's κ; unknown ids are ignored."""
        ...

    def begin(self, now: float) -> None:
        """Start the next step if there is work, and set :attr:`busy_until`."""
        ...

    def progress(self, now: float) -> Mapping[str, int]:
        """Return the answer tokens so far of the calls in the step."""
        ...

    def finish(self) -> Outcome:
        """End the step at :attr:`busy_until`."""
        ...
