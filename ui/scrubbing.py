"""Which commit a URL asks for."""

from bisect import bisect_right
from collections.abc import Sequence


def requested_commit(parameter: str | None) -> int | None:
    """Return the commit that a URL names; ``None`` for none, and for what is no number of a commit."""
    if parameter is None or not (parameter.isascii() and parameter.isdecimal()) or len(parameter) > 15:
        return None
    return int(parameter) or None


def nearest_commit(commits: Sequence[int], asked: int) -> int:
    """Return the last of ``commits``, in ascending order, that is not after ``asked``; else the first."""
    return commits[max(0, bisect_right(commits, asked) - 1)]
