"""What bounds a step of the torch engine, and how it trades one request's haste against the others' throughput."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What may be tuned of the scheduler.

    Prefill: a sequence that decodes waits for the whole step, so prompts less urgent than it share ``prefill_chunk``
    tokens of a step between them, or as many as take ``prefill_steps`` times a step's fixed part (reading the weights),
    if those are more. A small chunk keeps the urgent answer's tokens close together; a large one gets more prompt out
    of each step, whose fixed part is then paid less often: on a GPU, where prompts are cheap, that is what counts.
    Prompts more urgent than every decode may use the whole step.

    Preemption: a sequence loses its slot only to a κ smaller by more than ``preemption_margin`` seconds, only after it
    has advanced by ``preemption_quantum`` steps or tokens since it got the slot, and ``max_preemptions`` times at
    most. Pausing costs nothing while memory lasts, so the bounds are there to keep slots from changing hands for no
    gain and to let every call that started end.

    Concurrency (see :mod:`~agentsys.serving.scheduling.pacing`): if the most urgent sequence's κ is at most ``hurry``
    seconds ahead, others whose κ is still to come join it only while the step takes at most ``slowdown`` times what it
    takes for that one alone. An infinite ``slowdown``, the default, switches that off.
    """

    prefill_chunk: int = 64
    prefill_steps: float = 8.0
    preemption_margin: float = 0.05
    preemption_quantum: int = 4
    max_preemptions: int = 16
    slowdown: float = math.inf
    hurry: float = 30.0

    def __post_init__(self) -> None:
        if self.prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be at least 1, got {self.prefill_chunk}")
        if not self.prefill_steps >= 0:
            raise ValueError(f"prefill_steps must not be negative, got {self.prefill_steps}")
        if min(self.preemption_margin, self.preemption_quantum, self.max_preemptions) < 0:
            raise ValueError(
                "preemption_margin, preemption_quantum and max_preemptions must not be negative, got "
                f"{self.preemption_margin}, {self.preemption_quantum} and {self.max_preemptions}"
            )
        if not self.slowdown >= 1.0:
            raise ValueError(f"slowdown must be at least 1, got {self.slowdown}")


ADAPTIVE: Final = Tuning(slowdown=1.7)
"""What the engine runs with.

On two cores, where one sequence more costs about a thirteenth of a step, some ten run beside an urgent one; on a GPU,
where it costs next to nothing, all do.
"""


@dataclass(frozen=True, slots=True)
class SchedulerLimits(Tuning):
    """Bounds of one step and of one sequence; all counts, tokens unless named otherwise."""

    num_blocks: int
    block_size: int
    context_length: int
    max_batch: int = 16
    max_step_tokens: int = 256

    def __post_init__(self) -> None:
        Tuning.__post_init__(self)
        if self.max_batch < 1 or self.max_step_tokens < self.max_batch:
            raise ValueError(f"need 1 <= max_batch <= max_step_tokens, got {self.max_batch} and {self.max_step_tokens}")

    @property
    def longest(self) -> int:
        """Greatest length of a sequence: its context, or all of the KV cache."""
        return min(self.context_length, self.num_blocks * self.block_size)
