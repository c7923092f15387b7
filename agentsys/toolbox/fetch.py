"""``fetch``: pages over HTTP, from the hosts that the operator named."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Collection
from typing import Any, Final

import httpx
from pydantic import SecretStr

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import OWNER, PUBLIC, Label, Readers
from agentsys.egress import EgressError, EgressGuard, web_principal
from agentsys.labelled import Labelled
from agentsys.tools import Tool, ToolError, tool

FETCH: Final = "fetch"
TEXTUAL: Final = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/yaml")
"""Beginnings of the content types that are taken in; also those that end in ``+json`` or ``+xml`` are."""

MAX_URL_CHARACTERS: Final = 4096
MAX_REDIRECTS: Final = 5
_NOT_FOR_PAGES: Final = frozenset({"punycode", "idna"})
"""Codecs of host names, whose time grows with the square of the length: a page would hold the process up for hours."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class FetchFailed(ToolError):
    """A page could not be had: its host is not allowed, does not answer, or sends what is not taken in."""

    code = "AGS-0646"
    remedy = "Check the address; the settings under [fetch] say which hosts may be asked, and how much they may send."


def fetch_tool(
    hosts: Collection[str],
    *,
    private: Collection[str] = (),
    insecure: bool = False,
    consequential: bool = True,
    seconds: float = 20.0,
    max_bytes: int = 2 << 20,
    owner: str = OWNER,
) -> Tool:
    """Return the tool ``fetch`` for ``hosts``, as ``a.org``, ``a.org:8443`` or ``*.a.org``.

    Those in ``private`` may lead to addresses of this machine or network. Every host of a request learns its address,
    and shapes its answer: it is the principal ``web:HOST``. A request is ``consequential`` unless said otherwise, since
    following a stranger's link tells the stranger, and some hosts act on requests that should change nothing.
    """
    everyone = frozenset(f"web:{host}" for host in hosts)

    @tool(
        name=FETCH,
        effect=EffectClass.IDEMPOTENT,
        consequential=consequential,
        audience=Readers(everyone),
        source=Label(everyone, PUBLIC),
        timeout=seconds + 10,
    )
    async def fetch(url: str, token: SecretStr | None = None) -> Labelled[Any]:
        """Get the page at ``url`` over HTTP. ``token`` is sent to its host, and to no other, as a bearer token.

        The result is an object: ``url``, where the page was found after redirects; ``status``, as a number; ``type``,
        its content type; ``text``.
        """
        # A transport for each call: a connection that one caller's token opened is no other's.
        guard = EgressGuard(hosts, insecure=insecure, private=private, max_bytes=max_bytes)
        async with httpx.AsyncClient(transport=guard, timeout=seconds, trust_env=False) as client:
            request = _Request(client, token.get_secret_value() if token else "", owner)
            try:
                async with asyncio.timeout(seconds):
                    return await request.get(url)
            except TimeoutError as error:
                raise request.failed(f"did not answer within {seconds:g} s") from error
            except (httpx.HTTPError, httpx.InvalidURL, EgressError) as error:
                said = error.message if isinstance(error, EgressError) else f"{type(error).__name__}: {error}"
                raise request.failed(f"could not be had: {said}") from error

    return fetch


class _Request:
    """One call: the hosts that it has come to, which all shape what comes of it."""

    def __init__(self, client: httpx.AsyncClient, token: str, owner: str) -> None:
        self._client, self._token, self._owner = client, token, owner
        self._url = ""
        self._hosts: set[str] = set()

    @property
    def label(self) -> Label:
        # What a token opens is the owner's, and that host's.
        readers = Readers.of(self._owner, *self._hosts) if self._token else PUBLIC
        return Label(frozenset(self._hosts), readers)

    def failed(self, what: str) -> FetchFailed:
        failure = FetchFailed(f"{self._url[:200]} {what}.")
        failure.label = self.label
        return failure

    async def get(self, address: str) -> Labelled[Any]:
        """Return the page, redirects followed."""
        self._url = address
        url, origin = self._parsed(address), ""
        for _ in range(MAX_REDIRECTS + 1):
            self._url = str(url)
            host = web_principal(url)
            self._hosts.add(host)
            here = f"{url.scheme} {host}"
            origin = origin or here
            headers = {"authorization": f"Bearer {self._token}"} if self._token and here == origin else {}
            async with self._client.stream("GET", url, headers=headers, follow_redirects=False) as response:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    return Labelled(await self._page(response), self.label)
                url = self._parsed(str(url.join(response.headers["location"])))
        raise self.failed(f"redirects more than {MAX_REDIRECTS} times")

    def _parsed(self, address: str) -> httpx.URL:
        if len(address) > MAX_URL_CHARACTERS:
            raise self.failed(f"has {len(address)} characters, more than {MAX_URL_CHARACTERS}")
        url = httpx.URL(address)
        if url.userinfo:
            raise self.failed("names a user; a password is no part of an address")
        if url.scheme not in ("http", "https") or not url.host:
            raise self.failed("is no address of a page")
        return url.copy_with(fragment=None)

    async def _page(self, response: httpx.Response) -> dict[str, Any]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and not kind.startswith(TEXTUAL) and not kind.endswith(("+json", "+xml")):
            raise self.failed(f"is {kind[:100]!r}, and only text is taken in")
        body = b"".join([piece async for piece in response.aiter_raw()])
        text = _decoded(body, response.charset_encoding or "utf-8")
        return {"url": str(response.url), "status": response.status_code, "type": kind, "text": text}


def _decoded(body: bytes, charset: str) -> str:
    try:
        if codecs.lookup(charset).name not in _NOT_FOR_PAGES:
            return body.decode(charset, "replace")
    except (LookupError, ValueError):
        pass
    return body.decode("utf-8", "replace")
