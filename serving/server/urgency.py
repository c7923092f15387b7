"""κ of requests over HTTP, from the deadlines and priorities that they name."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

_REMEMBERED = 4096
_MILLISECONDS = 1000


class Urgencies:
    """Turns ``deadline``, ``priority`` and ``workflow`` into κ, the latest start time in unix seconds.

    The deadline of a workflow counts for all its requests: it is the end of the whole that has to be on time. The last
    4,096 workflows are remembered.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._deadlines: OrderedDict[str, float] = OrderedDict()

    def of(self, *, deadline: float | None, priority: int | None, workflow: str | None) -> float:
        """Return κ, infinite for a request without hurry; of a deadline and a priority the earlier one counts."""
        due = math.inf if deadline is None else self._clock() + deadline
        if workflow is not None:
            due = self._shared(workflow, due)
        return due if priority is None else min(due, priority / _MILLISECONDS)

    def _shared(self, workflow: str, due: float) -> float:
        due = due if math.isfinite(due) else self._deadlines.get(workflow, math.inf)
        if math.isfinite(due):
            self._deadlines[workflow] = due
            self._deadlines.move_to_end(workflow)
            if len(self._deadlines) > _REMEMBERED:
                self._deadlines.popitem(last=False)
        return due
