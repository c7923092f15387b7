"""What vLLM's steps held and how long they took, noted by our scheduler in vLLM's process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from agentsys.serving.scheduling.step_time import Iteration, RunningFit, StepTime

Step = tuple[int, int, int, float]
"""Prompt tokens computed, sequences that decoded, tokens in the context of all, seconds."""

_KEPT: Final = 4096


class StepLog:
    """The newest steps, and what they say of how long one takes.

    A step lasts from when its predecessor ended, or from its start if the engine had been idle. Where the engine
    schedules ahead, the steps overlap, and what counts is again when each of them ends.
    """

    def __init__(self) -> None:
        self.total = 0
        self._fit = RunningFit()
        self._kept: deque[Step] = deque(maxlen=_KEPT)
        self._open: dict[int, tuple[int, int, int, float]] = {}
        self._last_end: float | None = None

    def began(self, output: Any, requests: Mapping[str, Any], started: float) -> None:
        """Note what a scheduled step holds; ``started`` is of the clock that :meth:`ended` is told."""
        prefill, decoding, context = contents(output.num_scheduled_tokens, requests)
        if output.num_scheduled_tokens:
            self._open[id(output)] = (prefill, decoding, context, started)

    def ended(self, output: Any, now: float, *, busy: bool) -> None:
        """Note that a step's outcome is known; ``busy``: others follow without a pause."""
        noted = self._open.pop(id(output), None)
        if noted is not None:
            prefill, decoding, context, started = noted
            begin = started if self._last_end is None else self._last_end
            self._keep((prefill, decoding, context, now - begin))
        self._last_end = now if busy else None

    def _keep(self, step: Step) -> None:
        self._kept.append(step)
        self.total += 1
        self._fit.add(Iteration(*step))

    @property
    def step_time(self) -> StepTime | None:
        """How long a step takes, once enough were seen."""
        return self._fit.model

    def after(self, number: int) -> list[Step]:
        """Return the steps later than number ``number``, as far as they are kept."""
        fresh = min(self.total - number, len(self._kept))
        return list(self._kept)[len(self._kept) - fresh :] if fresh > 0 else []


def contents(scheduled: Mapping[str, int], requests: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the prompt tokens that a scheduled step computes, how many sequences decode, and all their tokens.

    What a preempted request computes anew counts as prompt.
    """
    prefill = decoding = context = 0
    for request_id, count in scheduled.items():
        request = requests[request_id]
        context += request.num_computed_tokens
        if request.num_computed_tokens <= request.num_prompt_tokens or count > 1:
            prefill += count
        else:
            decoding += 1
    return prefill, decoding, context
