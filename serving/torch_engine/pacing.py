"""Adaptive concurrency: how many of the slots' holders run in a step.

A step over many sequences yields more tokens a second and makes each of them wait longer for its own. κ is the latest
time at which a call may start, so one whose κ is still to come can wait without harm while a more urgent one gets its
tokens faster; once κ has come, it joins whatever the step then costs. Hence with little to do the urgent run nearly
alone, under overload, where every κ has passed, all run, and where nothing is urgent the steps are as full as the
slots allow.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.serving.scheduling.step_time import StepTime
from agentsys.serving.torch_engine.limits import Tuning
from agentsys.serving.torch_engine.sequence import SequenceState


def concurrency(ordered: Sequence[SequenceState], now: float, step_time: StepTime, tuning: Tuning) -> int:
    """Return how many of ``ordered``, the holders by key, run in the step that starts at ``now`` (unix seconds).

    Those whose κ has come run, and at least so many as keep a step of decodes within ``tuning.slowdown`` times that of
    the most urgent one alone. All run if the most urgent one's κ is more than ``tuning.hurry`` seconds ahead.
    """
    if not ordered or ordered[0].key[0] - now > tuning.hurry:
        return len(ordered)
    due = sum(sequence.key[0] <= now for sequence in ordered)
    # Prompts are left out: whenever they are computed, it costs the same, and `prefill_chunk` shares it out.
    seconds = step_time.seconds(0, 1, len(ordered[0].tokens))
    allowed = tuning.slowdown * seconds
    fitting = 1
    for sequence in ordered[1:]:
        seconds += step_time.seconds(0, 1, len(sequence.tokens)) - step_time.base
        if seconds > allowed:
            break
        fitting += 1
    return max(due, fitting)
