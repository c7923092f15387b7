"""How a foreign MCP server is reached: a program over standard streams, or an address over streamable HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import httpx2
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from agentsys.egress import Address, EgressGuard, host_of
from agentsys.protocols.mcp.content import MAX_RESULT_BYTES
from agentsys.sections import ForeignServerSettings

MAX_RESPONSE_BYTES = 4 * MAX_RESULT_BYTES
"""Bytes of one HTTP response, a stream's whole length included."""

Transport = AbstractAsyncContextManager[Any]


def transport_of(settings: ForeignServerSettings) -> Transport:
    """Return a transport to the server, not yet opened."""
    if settings.url is not None:
        token = settings.token.get_secret_value() if settings.token else None
        return _http(settings.url, token, insecure=settings.insecure)
    program, *arguments = settings.command
    passed = {name: os.environ[name] for name in settings.env if name in os.environ}
    server = StdioServerParameters(command=program, args=arguments, env=passed, cwd=settings.cwd)
    # Whoever captures sys.stderr, as notebooks and test runners do, puts there what no process can write to.
    return stdio_client(server, sys.__stderr__ or sys.stderr)


@asynccontextmanager
async def _http(url: str, token: str | None, *, insecure: bool) -> AsyncIterator[Any]:
    guard = _Guard(url, insecure=insecure)
    await guard.check(url)
    headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {token}"} if token else {})
    # How long a call may take is its tool's affair.
    timeout = httpx2.Timeout(30.0, read=None)
    async with (
        httpx2.AsyncClient(transport=guard, headers=headers, timeout=timeout) as http,
        streamable_http_client(url, http_client=http, max_sse_event_size=MAX_RESPONSE_BYTES) as streams,
    ):
        yield streams


class _Guard(httpx2.AsyncBaseTransport):
    """Connects to the host of ``url`` alone, as :class:`EgressGuard` does for the other HTTP library."""

    def __init__(self, url: str, *, insecure: bool) -> None:
        self._rules = EgressGuard([host_of(url)], insecure=insecure)
        # No retries: a call sent twice is two calls.
        self._transport = httpx2.AsyncHTTPTransport(retries=0)

    async def check(self, url: str) -> list[Address]:
        """Return what :meth:`EgressGuard.check` does, and raise this library's error where there is no such host."""
        try:
            return await self._rules.check(url)
        except httpx.ConnectError as error:
            raise httpx2.ConnectError(str(error)) from error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._send(request, await self.check(str(request.url)))
        if response.headers.get("content-encoding", "identity") != "identity":
            # A few compressed bytes can hold gigabytes.
            raise httpx2.DecodingError("the response is compressed, which nobody asked for", request=request)
        response.stream = _Bounded(response.stream)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _send(self, request: httpx2.Request, addresses: list[Address]) -> httpx2.Response:
        """Send the request to the very addresses that were checked, to the next where one cannot be connected to."""
        for address in addresses[:-1]:
            try:
                return await self._transport.handle_async_request(_pinned(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._transport.handle_async_request(_pinned(request, addresses[-1]))


def _pinned(request: httpx2.Request, address: Address) -> httpx2.Request:
    extensions = {**request.extensions, "sni_hostname": request.url.raw_host.decode()}
    url = request.url.copy_with(host=str(address))
    return httpx2.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)


class _Bounded(httpx2.AsyncByteStream):
    """A response's bytes, up to a bound."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        taken = 0
        async for piece in self._stream:
            taken += len(piece)
            if taken > MAX_RESPONSE_BYTES:
                raise httpx2.StreamError(f"the server sent more than {MAX_RESPONSE_BYTES} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
