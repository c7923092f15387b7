"""Many streams of one model server at once, read as a browser or a client would, over plain sockets."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

_CONNECTIONS_AT_ONCE = 100  # that are being opened; the system's backlog is short


@dataclass(frozen=True, slots=True)
class StreamResult:
    """One stream: whether it ended with the mark, its events, and seconds to the first event and to the end."""

    whole: bool
    events: int
    first: float
    total: float


async def read_streams(url: str, bodies: list[dict[str, Any]]) -> list[StreamResult]:
    """Send every body to ``url`` (``host:port``) at once, and read every answer to its end."""
    opening = asyncio.Semaphore(_CONNECTIONS_AT_ONCE)
    return await asyncio.gather(*(_read_stream(url, body, opening) for body in bodies))


async def _read_stream(url: str, body: dict[str, Any], opening: asyncio.Semaphore) -> StreamResult:
    host, port = url.split(":")
    content = json.dumps({"stream": True} | body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    async with opening:
        reader, writer = await asyncio.open_connection(host, int(port))
    began = time.perf_counter()
    events, first, whole = 0, 0.0, False
    try:
        writer.write(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        while line := await reader.readline():
            if line.startswith(b"data: "):
                events += 1
                first = first or time.perf_counter() - began
                whole = whole or line.startswith(b"data: [DONE]")
    finally:
        writer.close()
    return StreamResult(whole, events, first, time.perf_counter() - began)
