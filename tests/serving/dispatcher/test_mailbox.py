"""What a slow reader is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.dispatcher.errors import DispatcherClosedError
from agentsys.serving.dispatcher.mailbox import MOST_CHUNKS, Mailbox
from agentsys.serving.requests import Chunk, FinishReason


async def _drain(mailbox: Mailbox) -> list[Chunk]:
    found = [await mailbox.get()]
    while found[-1].finish_reason is None:
        found.append(await mailbox.get())
    return found


@given(bursts=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=6))
def test_nothing_is_lost_doubled_or_reordered_however_it_is_read(bursts) -> None:
    import asyncio

    async def scenario() -> None:
        mailbox, sent, got = Mailbox(), 0, []
        for puts, gets in bursts:
            for _ in range(puts):
                mailbox.put(Chunk(f"{sent},", (sent,)))
                sent += 1
            for _ in range(gets):
                if sum(len(chunk.token_ids) for chunk in got) < sent:
                    got.append(await mailbox.get())
        mailbox.put(Chunk("", finish_reason=FinishReason.STOP))
        mailbox.put(Chunk("too late", (99999,)))
        got += await _drain(mailbox)
        assert [token for chunk in got for token in chunk.token_ids] == list(range(sent))
        assert "".join(chunk.text for chunk in got) == "".join(f"{number}," for number in range(sent))

    asyncio.run(scenario())


async def test_no_more_chunks_are_kept_than_the_bound() -> None:
    mailbox = Mailbox()
    for number in range(10_000):
        mailbox.put(Chunk("x", (number,)))
    mailbox.put(Chunk("", finish_reason=FinishReason.STOP))
    assert len(await _drain(mailbox)) == MOST_CHUNKS + 2


async def test_an_error_comes_behind_what_was_put_before() -> None:
    mailbox = Mailbox()
    mailbox.put(Chunk("a"))
    mailbox.fail(DispatcherClosedError("closed."))
    mailbox.put(Chunk("b"))
    assert (await mailbox.get()).text == "a"
    for _ in range(2):
        with pytest.raises(DispatcherClosedError):
            await mailbox.get()
