"""Holds: a short exclusive turn for a transaction that keeps losing. What others would write to what it touches waits.

A hold names the addresses and sets that the losing transaction touched. It ends with the next commit of its owner,
whether that succeeds or not, or after its time; the owner's death therefore costs the others at most that time.
"""

import time
from dataclasses import dataclass
from typing import Final

from agentsys.blackboard.commits import CommitRequest
from agentsys.blackboard.entries import Key
from agentsys.blackboard.predicates import Predicate

MAX_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Hold:
    """What ``owner`` holds until the monotonic time ``until``."""

    owner: str
    keys: frozenset[Key]
    predicates: tuple[Predicate, ...]
    until: float

    @staticmethod
    def of(request: CommitRequest) -> "Hold":
        """Return the hold that ``request`` asks for."""
        keys = frozenset({*request.reads, *((write.topic, write.key) for write in request.writes)})
        until = time.monotonic() + min(request.hold, MAX_SECONDS)
        return Hold(request.owner, keys, request.predicates, until)

    def bars(self, request: CommitRequest) -> bool:
        """Whether ``request`` of another owner would write, or hold, some of what is held."""
        if request.owner == self.owner:
            return False
        touched = {(write.topic, write.key) for write in request.writes}
        if request.hold:
            touched |= request.reads.keys()
            if any(predicate in self.predicates for predicate in request.predicates):
                return True
        return any(key in self.keys or any(held.reaches(*key) for held in self.predicates) for key in touched)


class Holds:
    """The holds of one committer."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def take(self, request: CommitRequest) -> None:
        self._holds[request.owner] = Hold.of(request)

    def release(self, owner: str) -> bool:
        """End the hold of ``owner``; return whether there was one."""
        return self._holds.pop(owner, None) is not None

    def bar(self, request: CommitRequest) -> bool:
        """Whether ``request`` must wait."""
        if not self._holds:
            return False
        now = time.monotonic()
        return any(hold.until > now and hold.bars(request) for hold in self._holds.values())

    def next_end(self) -> float | None:
        """Return the seconds until some hold ends by itself, or ``None`` without holds."""
        ends = [hold.until for hold in self._holds.values()]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def end_expired(self) -> bool:
        """End the holds whose time is over; return whether there were any: what waits for them must go on."""
        now = time.monotonic()
        expired = [owner for owner, hold in self._holds.items() if hold.until <= now]
        for owner in expired:
            del self._holds[owner]
        return bool(expired)
