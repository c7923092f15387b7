"""The reader of many streams tells whole ones from those that were cut off or refused. The servers are scripted."""

from __future__ import annotations

import asyncio

import pytest

from agentsys.benchmarks.http_load import read_streams

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "whole", "events"),
    [
        (HEAD + b'data: {"a": 1}\n\ndata: [DONE]\n\n', True, 2),
        (HEAD + b'data: {"a": 1}\n\n', False, 1),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}", False, 0),
        (b"", False, 0),
    ],
)
async def test_a_stream_is_whole_only_with_its_end_mark(answer: bytes, whole: bool, events: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        results = await read_streams(f"127.0.0.1:{port}", [{"prompt": "x"}] * 3)
    assert [(result.whole, result.events) for result in results] == [(whole, events)] * 3
