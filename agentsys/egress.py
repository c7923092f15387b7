"""Where this process may connect on a tool's or a foreign system's word: the hosts that the operator named, at an
address that was looked at before, which no second answer of a name server can replace.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Final

import httpx

from agentsys.errors import AgentsysError

MAX_RESPONSE_BYTES: Final = 32 << 20
"""Bytes of one response, a stream's whole length included."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_STANDARD_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")


class EgressError(AgentsysError):
    """A foreign system's word would have made us do what the operator did not say."""

    code = "AGS-0766"
    remedy = "Check which address is configured for the foreign system."


class EgressDenied(EgressError):
    """A card, an answer or a call would have made us connect where the operator did not say."""

    code = "AGS-0763"
    remedy = "If that address is right, name its host in `hosts`; otherwise have it corrected."


class ResponseTooLarge(EgressError):
    """A peer sent more in one response than is taken in."""

    code = "AGS-0765"
    remedy = "Ask for less, or have the peer answer with a summary; it must not compress what it sends."


class EgressGuard(httpx.AsyncBaseTransport):
    """An HTTP transport that refuses every request to a host outside ``hosts``, redirects included.

    A host is a name, with its port where that is not the scheme's own, or ``*.example.org`` for all names below one.
    Those in ``private`` may lead to addresses of this machine or network; ``None``: all may. Plain http is for such
    addresses alone, unless ``insecure``. A link-local address, where clouds keep their credentials, is always refused.
    A response is at most ``max_bytes`` long.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        insecure: bool = False,
        private: Iterable[str] | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._private = None if private is None else frozenset(host.lower() for host in private)
        self._insecure = insecure
        self._max_bytes = max_bytes
        # One for each host: a connection made for one name must not carry another's request.
        self._transports: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Raises :class:`EgressDenied`; reading the response raises :class:`ResponseTooLarge`."""
        addresses = await self._allowed(request.url)
        request.headers["accept-encoding"] = "identity"
        response = await self._send(request, addresses)
        if response.headers.get("content-encoding", "identity") != "identity":
            # A few compressed bytes can hold gigabytes.
            await response.aclose()
            raise ResponseTooLarge(f"{host_of(request.url)} sent a compressed response nobody asked for.")
        response.stream = _Bounded(response.stream, self._max_bytes)
        return response

    async def check(self, url: str) -> list[Address]:
        """Return the addresses that ``url`` leads to. Raises :class:`EgressDenied` unless it may be connected to."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise EgressDenied(f"{url[:200]!r} is no address: {error}.") from error
        return await self._allowed(parsed)

    def names(self, url: httpx.URL) -> bool:
        """Whether the operator named the host of ``url``."""
        return url.scheme in ("http", "https") and matches(host_of(url), self._hosts)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def _allowed(self, url: httpx.URL) -> list[Address]:
        """Return the addresses that ``url`` leads to, if it may be connected to."""
        host = host_of(url)
        if not self.names(url):
            raise EgressDenied(f"{str(url)[:200]} is not on {', '.join(sorted(self._hosts)) or 'any host'}.")
        addresses = await _addresses(url.raw_host.decode(), url.port or _STANDARD_PORTS[url.scheme])
        for address in addresses:
            if any(one.is_link_local or one.is_unspecified or one.is_multicast for one in _reached(address)):
                raise EgressDenied(f"{host} leads to {address}.")
            if not is_public(address) and self._private is not None and not matches(host, self._private):
                raise EgressDenied(
                    f"{host} leads to {address}, an address of this machine or network.",
                    remedy="If it is meant to, name the host in `private` too.",
                )
            if url.scheme == "http" and is_public(address) and not self._insecure:
                raise EgressDenied(
                    f"{host} leads over plain http to the public address {address}.", remedy="Use https."
                )
        return addresses

    async def _send(self, request: httpx.Request, addresses: list[Address]) -> httpx.Response:
        """Send the request to one of ``addresses``, to the next where one cannot be connected to."""
        # No retries: a message sent twice is two messages.
        transport = self._transports.setdefault(host_of(request.url), httpx.AsyncHTTPTransport(retries=0))
        for address in addresses[:-1]:
            try:
                return await transport.handle_async_request(_pinned(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await transport.handle_async_request(_pinned(request, addresses[-1]))


def _pinned(request: httpx.Request, address: Address) -> httpx.Request:
    """Return the request to an address: its headers, and the certificate that is asked for, name the host all the same.

    Source: https://www.python-httpx.org/advanced/extensions/ (``sni_hostname``).
    """
    extensions = {**request.extensions, "sni_hostname": request.url.raw_host.decode()}
    url = request.url.copy_with(host=str(address))
    return httpx.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)


class _Bounded(httpx.AsyncByteStream):
    """A response's bytes, up to a bound."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, most: int) -> None:
        assert isinstance(stream, httpx.AsyncByteStream)
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        taken = 0
        async for piece in self._stream:
            taken += len(piece)
            if taken > self._most:
                raise ResponseTooLarge(f"The peer sent more than {self._most} bytes.")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def host_of(url: str | httpx.URL) -> str:
    """Return host and port of ``url`` in lower case, without a port that its scheme implies; of no URL, ``""``."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return ""
    host = parsed.raw_host.decode().lower()
    host = f"[{host}]" if ":" in host else host
    return host if parsed.port in (None, _STANDARD_PORTS.get(parsed.scheme)) else f"{host}:{parsed.port}"


def web_principal(url: str | httpx.URL) -> str:
    """Return the principal that learns of a request for ``url``, and shapes its answer: ``web:HOST``.

    Raises ``ValueError`` for what names no host.
    """
    host = host_of(url)
    if not host:
        raise ValueError(f"{str(url)[:200]!r} is no address with a host")
    return f"web:{host}"


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether ``host``, as :func:`host_of` returns it, is one of ``patterns``: hosts, or ``*.`` before one."""
    return any(
        host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:])
        for pattern in patterns
    )


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, and so is the IPv4 address that it may carry."""
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return not site_local and all(one.is_global for one in _reached(address))


def _reached(address: Address) -> list[Address]:
    """Return an address, and the IPv4 address that it may carry."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    carried = address.ipv4_mapped or address.sixtofour
    if carried is None and (address in _NAT64 or address in _COMPATIBLE):
        carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return [address] if carried is None else [address, carried]


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{host} cannot be resolved: {error}") from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]
