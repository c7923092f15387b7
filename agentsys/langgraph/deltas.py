"""Differences between two byte strings of which one grew out of the other: one copied run, and what is around it.

Serialised state mostly grows at its end, behind a length that may take more bytes than before, so one run with a shift
says almost everything; comparing slices keeps the search in native code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ANCHOR: Final = 32
"""Bytes that must agree before a run is looked for; shorter values are stored whole."""
SKIP: Final = 16
"""Where the anchor begins in the old bytes: behind the lengths that a growing value changes."""
SHIFTS: Final = (0, 2, 4, -2, -4)
"""By how many bytes what follows a length moves when the length needs 1, 3 or 5 bytes (MessagePack)."""
SEARCHED: Final = 4_096
"""Bytes of the new value in which the anchor is looked for."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New bytes as ``before + old[start : start + length] + after``."""

    start: int
    length: int
    before: bytes
    after: bytes

    @property
    def size(self) -> int:
        return len(self.before) + len(self.after)

    def apply(self, old: bytes) -> bytes:
        """Return the new bytes."""
        return b"".join((self.before, old[self.start : self.start + self.length], self.after))


def difference(old: bytes, new: bytes) -> Delta | None:
    """Return how ``new`` follows from ``old``, or ``None`` where no run of both was found."""
    if len(old) < SKIP + ANCHOR:
        return None
    best: Delta | None = None
    for at in _places(old[SKIP : SKIP + ANCHOR], new):
        run = _run(old, new, at)
        if best is None or run.length > best.length:
            best = run
        if run.start + run.length == len(old):
            # All that was there is there still.
            break
    return best


def _places(anchor: bytes, new: bytes) -> Iterator[int]:
    """Yield where the anchor is: repetitive values hold it in many places, so first where a length made it move."""
    for shift in SHIFTS:
        if new.startswith(anchor, SKIP + shift):
            yield SKIP + shift
    found = new.find(anchor, 0, SEARCHED)
    if found >= 0 and found - SKIP not in SHIFTS:
        yield found


def _run(old: bytes, new: bytes, at: int) -> Delta:
    """Return the longest run around the old anchor and its place ``at`` in the new bytes."""
    back = _agreeing(old[:SKIP][::-1], new[:at][::-1])
    start, begin = SKIP - back, at - back
    rest = old[start:]
    # Mostly all that was there is there still.
    length = len(rest) if new.startswith(rest, begin) else _agreeing(rest, new[begin:])
    return Delta(start, length, new[:begin], new[begin + length :])


def _agreeing(one: bytes, other: bytes) -> int:
    """Return how many bytes both begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
