"""A board as it stood at one commit: each view of it is fetched once, by whichever page or browser looks first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

from agentsys.protocols.http.view_client import ViewClient

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The board behind ``views`` at its commit ``head``; ``recorded`` says that it came with the server."""

    views: ViewClient
    head: int
    recorded: bool = False

    @staticmethod
    def newest(views: ViewClient, *, recorded: bool = False) -> Snapshot:
        """Ask for the head alone, which is what most looks need. Raises what the client raises."""
        return Snapshot(views, views.board().head, recorded)

    def look(self, read: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Return what ``read``, a method of :attr:`views`, returns; the server is asked only where the head moved."""
        found: T = _read(self.head, read, arguments, tuple(sorted(named.items())))
        return found


# The bound method tells servers and boards apart: each client is one object for as long as the process lives.
@lru_cache(maxsize=256)
def _read(
    head: int, read: Callable[..., Any], arguments: tuple[Hashable, ...], named: tuple[tuple[str, Hashable], ...]
) -> Any:
    return read(*arguments, **dict(named))
