from __future__ import annotations

import asyncio

from agentsys.serving.outbox import Outbox


async def test_what_is_put_comes_in_order_with_one_wake_up_a_loop(monkeypatch) -> None:
    loop, outbox = asyncio.get_running_loop(), Outbox()
    mailboxes: list[asyncio.Queue[int]] = [asyncio.Queue(), asyncio.Queue()]
    wakes: list[object] = []
    soon = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *call: (wakes.append(call), soon(*call)))
    put = [outbox.to(mailbox, loop) for mailbox in mailboxes]
    for item in range(6):
        put[item % 2](item)
    await asyncio.sleep(0)
    assert all(mailbox.empty() for mailbox in mailboxes)
    await asyncio.to_thread(outbox.flush)
    assert [[await mailbox.get() for _ in range(3)] for mailbox in mailboxes] == [[0, 2, 4], [1, 3, 5]]
    assert len(wakes) - 1 == 1  # the other one is `to_thread`'s


async def test_a_loop_that_is_gone_keeps_nothing_from_the_others() -> None:
    gone, outbox = asyncio.new_event_loop(), Outbox()
    lost: asyncio.Queue[int] = asyncio.Queue()
    kept: asyncio.Queue[int] = asyncio.Queue()
    outbox.to(lost, gone)(1)
    outbox.to(kept, asyncio.get_running_loop())(2)
    gone.close()
    outbox.flush()
    assert await kept.get() == 2


async def test_whoever_is_to_flush_soon_is_told_once_until_then() -> None:
    calls: list[object] = []
    outbox = Outbox(calls.append)
    mailbox: asyncio.Queue[int] = asyncio.Queue()
    put = outbox.to(mailbox, asyncio.get_running_loop())
    put(1)
    put(2)
    assert calls == [outbox.flush]
    outbox.flush()
    put(3)
    assert len(calls) == 2
    outbox.flush()
    assert [await mailbox.get() for _ in range(3)] == [1, 2, 3]
