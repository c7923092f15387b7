"""Interrupts of a command that waits in its event loop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_heeded() -> Iterator[None]:
    """Wake the running event loop at signals: ``asyncio.run`` hears of one that comes as the loop goes to sleep only at
    the loop's next event, which may be the end of a download."""
    loop = asyncio.get_running_loop()
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        loop.add_reader(heard, heard.recv, 4096)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(heard)
