"""How much a caller may send at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from agentsys.protocols.bodies import MOST_BYTES, bounded

PIECE = b"x" * (1 << 20)


def pieces(size: int) -> Iterator[bytes]:
    """Yield a JSON text of ``size`` bytes, whose length nobody tells before."""
    yield b'"'
    left = size - 2
    while left:
        piece = PIECE[:left]
        left -= len(piece)
        yield piece
    yield b'"'


FACES = ("/api/v1/runs", "/api/v1/approvals/a/approve", "/a2a", "/a2a/message:send", "/mcp")


@pytest.mark.parametrize("told", [True, False])
def test_a_face_reads_so_much_and_no_more(runtime, serve, told):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with serve(runtime, a2a=True, mcp=True) as client:
        for path in FACES:
            fits, exceeds = (
                client.post(path, content=b"".join(pieces(size)) if told else pieces(size), headers=headers)
                for size in (MOST_BYTES, MOST_BYTES + 1)
            )
            assert fits.status_code != 413, path
            assert (exceeds.status_code, exceeds.json()["error"]["code"]) == (413, "AGS-0710"), path
        assert client.get("/api/v1/health").status_code == 200


def test_a_face_is_given_the_whole_body_then_what_comes_after_it():
    async def main() -> list[Message]:
        came: list[Message] = [
            {"type": "http.request", "body": b"a", "more_body": True},
            {"type": "http.request", "body": b"b", "more_body": False},
            {"type": "http.disconnect"},
        ]
        seen: list[Message] = []

        async def receive() -> Message:
            return came.pop(0)

        async def send(message: Message) -> None:
            raise AssertionError(message)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend([await receive(), await receive()])

        await bounded(app)({"type": "http", "path": "/api/v1/runs", "headers": []}, receive, send)
        # Who leaves in the middle of a body is answered nothing.
        came.append({"type": "http.disconnect"})
        await bounded(app)({"type": "http", "path": "/api/v1/runs", "headers": []}, receive, send)
        return seen

    assert asyncio.run(main()) == [
        {"type": "http.request", "body": b"ab", "more_body": False},
        {"type": "http.disconnect"},
    ]
