"""Adaptive concurrency: how many of the calls that could run in an engine's step do.

A step over many sequences yields more tokens a second and makes each of them wait longer for its own. κ is the latest
time at which a call may start, so one whose κ is still to come can wait without harm while a more urgent one gets its
tokens faster; once κ has come, it joins whatever the step then costs. Hence with little to do the urgent run nearly
alone, under overload, where every κ has passed, all run, and where nothing is urgent the steps are as full as the
slots allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agentsys.serving.scheduling.step_time import StepTime


class Runnable(NamedTuple):
    """A call that could run: its κ (unix seconds) and the tokens in its context."""

    urgency: float
    tokens: int


def concurrency(ordered: Sequence[Runnable], now: float, step_time: StepTime, *, slowdown: float, hurry: float) -> int:
    """Return how many of ``ordered``, the most urgent first, run in the step that starts at ``now`` (unix seconds).

    Those whose κ has come run, and at least so many as keep a step of decodes within ``slowdown`` times that of the
    most urgent one alone. All run if the most urgent one's κ is more than ``hurry`` seconds ahead.
    """
    if not ordered or ordered[0].urgency - now > hurry:
        return len(ordered)
    due = sum(call.urgency <= now for call in ordered)
    # Prompts are left out: whenever they are computed, it costs the same, and `prefill_chunk` shares it out.
    seconds = step_time.seconds(0, 1, ordered[0].tokens)
    allowed = slowdown * seconds
    fitting = 1
    for call in ordered[1:]:
        seconds += step_time.seconds(0, 1, call.tokens) - step_time.base
        if seconds > allowed:
            break
        fitting += 1
    return max(due, fitting)
