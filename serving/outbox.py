"""What an engine's thread has for readers on event loops: handed over together, with one wake-up for each loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
_Posted = tuple["asyncio.Queue[Any]", Any]


class Outbox:
    """Items until :meth:`flush`. Belongs to one thread."""

    def __init__(self, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        """``soon`` is told to flush when an item is put into an empty box; without it, whoever puts has to."""
        self._soon = soon
        self._posted: dict[asyncio.AbstractEventLoop, list[_Posted]] = {}

    def to(self, mailbox: asyncio.Queue[Item], loop: asyncio.AbstractEventLoop) -> Callable[[Item], None]:
        """Return what puts an item that is bound for a mailbox of ``loop``."""

        def put(item: Item) -> None:
            if not self._posted and self._soon is not None:
                self._soon(self.flush)
            self._posted.setdefault(loop, []).append((mailbox, item))

        return put

    def flush(self) -> None:
        """Hand over what was put, in its order."""
        posted, self._posted = self._posted, {}
        for loop, items in posted.items():
            # The readers' loop may be gone with its thread or test; its requests are then nobody's.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_distribute, items)


def _distribute(items: Sequence[_Posted]) -> None:
    for mailbox, item in items:
        mailbox.put_nowait(item)
