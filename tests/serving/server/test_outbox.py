"""What waits for a reader: nothing is lost or reordered by joining it, and it is bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.requests import Chunk, FinishReason, TokenLogprob, TokenLogprobs, Usage
from agentsys.serving.server.errors import AnswerAbortedError, SlowClientError
from agentsys.serving.server.outbox import MOST_PIECES, Outbox, joined


def piece(token: int) -> Chunk:
    return Chunk(chr(97 + token), (token,), logprobs=(TokenLogprobs(TokenLogprob(token, b"x", -1.0)),))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25)) | st.none(), max_size=40))
def test_whenever_it_is_read_every_answer_comes_whole_and_in_order(said: list[tuple[int, int] | None]) -> None:
    async def run() -> None:
        outbox = Outbox(3)
        wanted: list[list[int]] = [[], [], []]
        got: list[list[int]] = [[], [], []]
        unread = 0
        for item in [*said, None]:
            if item is not None:
                outbox.put(item[0], piece(item[1]))
                wanted[item[0]].append(item[1])
                unread += 1
                continue
            while unread:
                taken = await outbox.take()
                assert taken is not None
                index, chunk = taken
                got[index].extend(chunk.token_ids)
                unread -= len(chunk.token_ids)
                assert len(chunk.text) == len(chunk.logprobs) == len(chunk.token_ids)
        for _ in range(3):
            outbox.close()
        assert await outbox.take() is None and got == wanted

    asyncio.run(run())


def test_the_end_of_an_answer_is_kept_when_it_is_joined() -> None:
    last = Chunk("c", (3,), FinishReason.STOP, Usage(completion_tokens=3))
    whole = joined([piece(0), piece(1), last])
    assert (whole.text, whole.token_ids, whole.finish_reason) == ("abc", (0, 1, 3), FinishReason.STOP)
    assert whole.usage == last.usage


async def test_an_error_comes_after_what_was_said_before_it() -> None:
    outbox = Outbox(1)
    outbox.put(0, piece(1))
    outbox.fail(AnswerAbortedError("over"))
    outbox.fail(ValueError("a later one"))
    assert await outbox.take() == (0, piece(1))
    with pytest.raises(AnswerAbortedError):
        await outbox.take()


def test_too_much_unread_is_an_error_of_whoever_writes() -> None:
    outbox = Outbox(1)
    for _ in range(MOST_PIECES):
        outbox.put(0, piece(1))
    with pytest.raises(SlowClientError):
        outbox.put(0, piece(1))
