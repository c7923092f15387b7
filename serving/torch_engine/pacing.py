"""Adaptive concurrency: how many of the slots' holders run in a step.

A step over many sequences yields more tokens a second and makes each of them wait longer for its own. While nobody is
pressed, all run. A sequence is pressed when its slack is used up: κ is the latest time at which it may start, waiting
uses slack up and running does not, so

    ``slack = κ − now + served``,  ``served`` the seconds of the steps in which it advanced since κ was set.

As long as one is pressed, sequences with slack to spare join it only while the step, by the fitted step time, stays
within a tuned factor of what it takes without them. What is held back keeps its slot, loses slack meanwhile, and is
itself never held back once that is used up; so under overload, where nobody has slack, all run again.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.serving.scheduling.step_time import StepTime
from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.sequence import SequenceState


def paced(
    ordered: Sequence[SequenceState], now: float, step_time: StepTime, limits: SchedulerLimits
) -> Sequence[SequenceState]:
    """Return the first of ``ordered`` (by key) that are to run in the step that starts at ``now``."""
    pressed = [index for index, sequence in enumerate(ordered) if sequence.slack(now) <= limits.tight_slack]
    if not pressed:
        return ordered
    # Whoever has a smaller key than a pressed one runs too, so that the order of service is always that of the keys.
    count = pressed[-1] + 1
    seconds = step_time.base + sum(_price(item, step_time, limits.max_step_tokens) for item in ordered[:count])
    allowed = limits.slowdown * seconds
    for sequence in ordered[count:]:
        seconds += _price(sequence, step_time, limits.prefill_chunk)
        if seconds > allowed:
            break
        count += 1
    return ordered[:count]


def _price(sequence: SequenceState, step_time: StepTime, longest: int) -> float:
    """Return the seconds that a sequence adds to a step that computes at most ``longest`` tokens of its prompt."""
    decodes = sequence.is_decoding
    tokens = 0 if decodes else min(sequence.remaining, longest)
    return step_time.seconds(tokens, int(decodes), sequence.computed + max(tokens, 1)) - step_time.base
