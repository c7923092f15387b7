"""κ of requests over HTTP, from the deadlines and priorities that they name."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

_REMEMBERED = 4096
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Horizon:
    """When a workflow came and by when it is wanted, in unix seconds."""

    arrived: float
    deadline: float = math.inf

    def urgency(self, priority: int | None) -> float:
        """Return κ, infinite for a request without hurry; of a deadline and a priority the earlier one counts."""
        return self.deadline if priority is None else min(self.deadline, priority / _MILLISECONDS)


class Urgencies:
    """Turns deadlines of requests into deadlines of workflows.

    The deadline of a workflow counts for all its requests: it is the end of the whole that has to be on time. The last
    4,096 workflows are remembered.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[str, Horizon] = OrderedDict()

    def horizon(self, *, deadline: float | None, workflow: str | None) -> Horizon:
        """Return when the request's workflow came and by when it is wanted; ``deadline`` is seconds from now."""
        now = self._clock()
        due = math.inf if deadline is None else now + deadline
        if workflow is None:
            return Horizon(now, due)
        known = self._known.pop(workflow, None) or Horizon(now)
        if math.isfinite(due):
            known = replace(known, deadline=due)
        self._known[workflow] = known
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known
