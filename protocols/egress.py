"""Where clients of foreign systems may connect: the hosts the operator named, no address more private than theirs."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Final
from urllib.parse import urlsplit

import httpx

from agentsys.errors import AgentsysError

MAX_RESPONSE_BYTES: Final = 32 << 20
"""Bytes of one response, a stream's whole length included."""


class EgressError(AgentsysError):
    """A foreign system's word would have made us do what the operator did not say."""

    code = "AGS-0766"
    remedy = "Check which address is configured for the foreign system."


class EgressDenied(EgressError):
    """A card or an answer would have made us connect where the operator did not say."""

    code = "AGS-0763"
    remedy = "If that address is right, name its host in `hosts`; otherwise have the card's address corrected."


class ResponseTooLarge(EgressError):
    """A peer sent more in one response than is taken in."""

    code = "AGS-0765"
    remedy = "Ask for less, or have the peer answer with a summary; it must not compress what it sends."


class EgressGuard(httpx.AsyncBaseTransport):
    """An HTTP transport that refuses every request to a host outside ``hosts``, redirects included.

    Plain http is for addresses of this machine or network; a host whose name leads to a public address needs https,
    unless ``insecure``. A link-local address, where clouds keep their credentials, is always refused.
    """

    def __init__(self, hosts: Iterable[str], *, insecure: bool = False) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._insecure = insecure
        # No retries: a message sent twice is two messages.
        self._transport = httpx.AsyncHTTPTransport(retries=0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Raises :class:`EgressDenied`; reading the response raises :class:`ResponseTooLarge`."""
        await self.check(str(request.url))
        request.headers["accept-encoding"] = "identity"
        response = await self._transport.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            # A few compressed bytes can hold gigabytes.
            raise ResponseTooLarge(f"{host_of(str(request.url))} sent a compressed response nobody asked for.")
        response.stream = _Bounded(response.stream)
        return response

    async def check(self, url: str) -> None:
        """Raise :class:`EgressDenied` unless ``url`` may be connected to."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or host_of(url) not in self._hosts:
            raise EgressDenied(f"{url[:200]} is not on {', '.join(sorted(self._hosts))}.")
        for address in await _addresses(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)):
            if address.is_link_local or address.is_unspecified or address.is_multicast:
                raise EgressDenied(f"{host_of(url)} leads to {address}.")
            if parts.scheme == "http" and address.is_global and not self._insecure:
                raise EgressDenied(
                    f"{host_of(url)} leads over plain http to the public address {address}.", remedy="Use https."
                )

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Bounded(httpx.AsyncByteStream):
    """A response's bytes, up to a bound."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        assert isinstance(stream, httpx.AsyncByteStream)
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        taken = 0
        async for piece in self._stream:
            taken += len(piece)
            if taken > MAX_RESPONSE_BYTES:
                raise ResponseTooLarge(f"The peer sent more than {MAX_RESPONSE_BYTES} bytes.")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def host_of(url: str) -> str:
    """Return host and port of ``url`` in lower case, without a port that its scheme implies."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    standard = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in (None, standard) else f"{host}:{parts.port}"


async def _addresses(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx.ConnectError(f"{host} cannot be resolved: {error}") from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]
