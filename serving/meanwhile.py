"""What is asked of requests that are on their way, and not yet where it could be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Meanwhile:
    """What was asked of a request on its way; ``urgency`` None is as it came."""

    aborted: bool = False
    urgency: float | None = None


class OnTheWay:
    """Requests on their way, by id. Thread-safe; unknown ids are ignored."""

    def __init__(self) -> None:
        self._coming: dict[str, Meanwhile] = {}

    @contextmanager
    def coming(self, request_id: str) -> Iterator[Meanwhile]:
        """Note in this block what is asked of a request."""
        meanwhile = self._coming[request_id] = Meanwhile()
        try:
            yield meanwhile
        finally:
            if self._coming.get(request_id) is meanwhile:
                del self._coming[request_id]

    def abort(self, request_id: str) -> None:
        """Note that a request is to stop."""
        meanwhile = self._coming.get(request_id)
        if meanwhile is not None:
            meanwhile.aborted = True

    def rekey(self, request_id: str, urgency: float) -> None:
        """Note a request's new κ."""
        meanwhile = self._coming.get(request_id)
        if meanwhile is not None:
            meanwhile.urgency = urgency
