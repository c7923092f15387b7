"""Signals that come while a command's event loop sleeps."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

from agentsys.cli.interrupts import interrupts_heeded


async def test_a_signal_that_does_not_break_the_loops_sleep_ends_it() -> None:
    heard, late = asyncio.Event(), list[bool]()

    def told_to_another_thread() -> None:
        time.sleep(0.2)
        # The loop's own system call goes on, as it does where a signal comes just before it.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        with interrupts_heeded():
            asyncio.get_running_loop().call_later(10, late.append, True)
            thread = threading.Thread(target=told_to_another_thread)
            thread.start()
            await heard.wait()
            # A timer that was due before is heard of next.
            await asyncio.sleep(0)
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not late, "it was heard at the loop's next event"
