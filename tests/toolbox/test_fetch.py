"""``fetch``: only named hosts, only at the address that was checked, only so much; and labelled by who was asked."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.egress import EgressDenied, EgressGuard, host_of, is_public, matches, web_principal
from agentsys.labelled import Labelled
from agentsys.policy.documents import read_policy
from agentsys.runtime import Runtime
from agentsys.secrets import Secret
from agentsys.testing import ScriptedModel
from agentsys.toolbox.fetch import FetchFailed, fetch_tool
from tests.toolbox.web import Web, serving

OPEN = Label.trusted(readers=PUBLIC)


def tool_for(web: Web, *more: str, **options: Any) -> Any:
    hosts = [web.host, *more]
    return fetch_tool(hosts, private=hosts, **options)


async def get(tool: Any, url: str, **arguments: Any) -> Labelled[Any]:
    return await tool.invoke({"url": url, **arguments}, "key")


async def test_a_page_comes_with_the_label_of_its_host(web: Web) -> None:
    url = web.page("/a?b=1", "grüße".encode(), content_type="text/html; charset=utf-8")
    page = await get(tool_for(web), f"{url}#part")
    assert page.value == {"url": url, "status": 200, "type": "text/html", "text": "grüße"}
    assert page.label == Label(frozenset({f"web:{web.host}"}), PUBLIC)
    (asked,) = web.asked
    assert asked[0] == "/a?b=1" and "authorization" not in asked[1] and asked[1]["host"] == web.host


async def test_a_page_that_is_not_there_is_an_answer(web: Web) -> None:
    assert (await get(tool_for(web), web.url("/none"))).value["status"] == 404


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/",
        "http://127.0.0.1:1/",
        "ftp://{host}/",
        "file:///etc/passwd",
        "http://user:password@{host}/",
        "http://{host}@other.example/",
        "http://other.example\\@{host}/",
        "//{host}/",
        "{host}",
        "http://",
        "http://[::1/",
        "http://{host}." + "/",
        "http://{host}/" + "x" * 5000,
        "",
    ],
)
async def test_other_addresses_are_refused(web: Web, url: str) -> None:
    with pytest.raises(FetchFailed):
        await get(tool_for(web), url.format(host=web.host))
    assert web.asked == []


async def test_a_private_address_needs_the_operators_word(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchFailed, match="this machine or network"):
        await get(fetch_tool([web.host]), web.page("/", b"secret"))
    assert web.asked == []
    for address in ("10.1.2.3", "192.168.0.1", "100.64.0.1", "127.0.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"):
        resolve_to(monkeypatch, [address])
        with pytest.raises(FetchFailed, match="address of this machine or network"):
            await get(fetch_tool(["named.example"]), "https://named.example/")
    carrying = ("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe")
    for address in ("169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", *carrying):
        resolve_to(monkeypatch, [address])
        with pytest.raises(FetchFailed, match=f"leads to {address}"):
            await get(fetch_tool(["named.example"], private=["named.example"]), "https://named.example/")
    resolve_to(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(FetchFailed, match=r"10\.0\.0\.1"):
        await get(fetch_tool(["named.example"]), "https://named.example/")
    resolve_to(monkeypatch, ["93.184.216.34"])
    with pytest.raises(FetchFailed, match="plain http"):
        await get(fetch_tool(["named.example"]), "http://named.example/")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the name server give these answers, the last one again and again; returns the names that it is asked."""
    remaining, asked = list(answers), []

    async def getaddrinfo(self: object, host: str, port: int, **options: object) -> list[Any]:
        asked.append(host)
        found = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_that_changes_its_address_is_not_followed(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer passes the check, and is the one that is connected to."""
    with serving() as inner:
        inner.page("/", b"internal")
        web.page("/", b"outside")
        # Both listen on loopback, so the ports tell them apart: the second answer would lead to another address.
        asked = resolve_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        name = f"named.example:{web.port}"
        page = await get(fetch_tool([name], private=[name]), web.url("/", "named.example"))
        assert page.value["text"] == "outside" and asked == ["named.example"], "asked once, for check and connection"
        assert web.asked[0][1]["host"] == name, "the server is told the name"
        assert inner.asked == []


async def test_an_address_that_does_not_answer_gives_way_to_the_next(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.page("/", b"found")
    name = f"named.example:{web.port}"
    resolve_to(monkeypatch, ["127.0.0.99", "127.0.0.1"])
    assert (await get(fetch_tool([name], private=[name]), web.url("/", "named.example"))).value["text"] == "found"


async def test_the_certificate_is_that_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned address is connected to, and the name is what the server is asked for and must prove."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=named.example "
        f"-addext subjectAltName=DNS:named.example -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    named: list[str | None] = []
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    server_side.sni_callback = lambda socket, name, context: named.append(name)  # type: ignore[assignment]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    resolve_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    try:
        for name, right in (("named.example", True), ("other.example", False)):
            guard = EgressGuard([f"{name}:{port}"])
            guard._transports[f"{name}:{port}"] = httpx.AsyncHTTPTransport(
                verify=ssl.create_default_context(cafile=certificate)
            )
            async with httpx.AsyncClient(transport=guard) as client:
                if right:
                    assert (await client.get(f"https://{name}:{port}/")).text == "ok"
                else:
                    with pytest.raises(httpx.ConnectError, match=r"certificate"):
                        await client.get(f"https://{name}:{port}/")
    finally:
        server.close()
    assert named == ["named.example", "other.example"]


async def test_redirects_are_followed_within_the_allowed_hosts(web: Web) -> None:
    with serving() as other, serving() as forbidden:
        other.page("/end", b"there")
        web.page("/local", b"", 302, location="/next")
        web.page("/next", b"", 307, location=other.url("/end"))
        page = await get(tool_for(web, other.host), web.url("/local"))
        assert page.value["text"] == "there" and page.value["url"] == other.url("/end")
        assert page.label.influencers == {f"web:{web.host}", f"web:{other.host}"}, "who redirects shapes the result too"
        web.page("/out", b"", 302, location=forbidden.url("/"))
        with pytest.raises(FetchFailed, match="is not on") as failure:
            await get(tool_for(web, other.host), web.url("/out"))
        assert failure.value.label is not None and f"web:{web.host}" in failure.value.label.influencers
        assert forbidden.asked == []
        web.page("/round", b"", 302, location="/round")
        with pytest.raises(FetchFailed, match="more than 5 times"):
            await get(tool_for(web), web.url("/round"))
        web.page("/meta", b"", 302, location="http://169.254.169.254/latest")
        with pytest.raises(FetchFailed, match="is not on"):
            await get(tool_for(web), web.url("/meta"))


async def test_size_time_and_type_are_bounded(web: Web) -> None:
    def endless(_: Web) -> Any:
        while True:
            yield b"x" * 1000

    def slow(_: Web) -> Any:
        import time

        while True:
            yield b"x"
            time.sleep(0.05)

    web.page("/endless", endless)
    with pytest.raises(FetchFailed, match="more than 5000 bytes"):
        await get(tool_for(web, max_bytes=5000), web.url("/endless"))
    web.page("/slow", slow)
    with pytest.raises(FetchFailed, match=r"within 0\.4 s"):
        await get(tool_for(web, seconds=0.4), web.url("/slow"))
    web.page("/image", b"\x89PNG", content_type="image/png")
    with pytest.raises(FetchFailed, match="image/png"):
        await get(tool_for(web), web.url("/image"))
    web.page("/bomb", b"\x1f\x8b", content_encoding="gzip")
    with pytest.raises(FetchFailed, match="compressed"):
        await get(tool_for(web), web.url("/bomb"))
    web.page("/odd", b"\xff\xfe", content_type="text/plain; charset=no-such")
    assert (await get(tool_for(web), web.url("/odd"))).value["text"] == "��"
    assert (await get(tool_for(web), web.page("/json", b"{}", content_type="application/problem+json"))).value


async def test_a_token_goes_to_its_host_alone_and_makes_the_answer_the_owners(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "the-token-value")
    principal = f"web:{web.host}"
    secret = Secret("hub", "TOKEN_OF_TEST", tools=frozenset({"fetch"}), readers=Readers.of(principal))

    async def workflow(context: Any, url: Any) -> Any:
        page = await context.call("fetch", url=url, token={"secret": "hub"})
        return [page.value["text"], sorted(page.label.readers.members or ())]

    with serving() as other, Board.open(":memory:") as board:
        other.page("/end", b"there")
        web.page("/moved", b"", 302, location=other.url("/end"))
        web.page("/echo", lambda web: web.asked[-1][1]["authorization"].encode())
        runtime = Runtime(board, ScriptedModel(str), tools=[tool_for(web)], workflows=[workflow], secrets=[secret])
        result = await runtime.run("workflow", web.url("/echo"), label=OPEN)
        assert web.asked[-1][1]["authorization"] == "Bearer the-token-value"
        assert result.value == ["Bearer [secret hub]", ["user:owner", principal]], result.failure
        both = Runtime(
            board,
            ScriptedModel(str),
            tools=[tool_for(web, other.host)],
            workflows=[workflow],
            secrets=[secret],
            policy=read_policy('[tools.fetch]\naudience = ["host:url"]\n'),
        )
        moved = await both.run("workflow", web.url("/moved"), label=OPEN)
        assert moved.value is not None and "authorization" not in other.asked[-1][1]
        denied = await both.run("workflow", other.url("/end"), label=OPEN)
        assert denied.failure is not None and "not all among its readers" in denied.failure.message
        assert len(other.asked) == 1


async def test_a_stranger_leads_to_no_request(web: Web) -> None:
    url = Labelled(web.page("/", b"x"), Label(frozenset({"external"}), PUBLIC))
    own = Labelled(web.url("/?q=private"), Label.trusted())

    async def workflow(context: Any, which: Any) -> Any:
        return (await context.call("fetch", url=own if which == "own" else url)).value

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[tool_for(web)], workflows=[workflow])
        stranger = await runtime.run("workflow", "stranger", label=OPEN)
        assert stranger.failure is not None and "integrity" in stranger.failure.message
        private = await runtime.run("workflow", "own", label=OPEN)
        assert private.failure is not None and "would disclose" in private.failure.message
        assert web.asked == []


def test_hosts_are_compared_as_they_are_connected_to() -> None:
    assert host_of("HTTPS://A.Example:443/x") == "a.example" and host_of("http://a:8080") == "a:8080"
    assert host_of("https://bücher.de") == "xn--bcher-kva.de" and host_of("nonsense") == host_of("http://[::1") == ""
    assert matches("a.b.org", ["*.b.org"]) and not matches("b.org", ["*.b.org"]) and not matches("ab.org", ["*.b.org"])
    assert not matches("", ["*.b.org", "a"]) and not matches("evilb.org", ["*.b.org"])
    assert web_principal("https://a.org/x") == "web:a.org"
    with pytest.raises(ValueError, match="host"):
        web_principal("nonsense")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("::127.0.0.1", False),
        ("::ffff:192.168.0.1", False),
        ("fec0::1", False),
        ("64:ff9b::5db8:d822", True),
    ],
)
def test_an_address_that_carries_a_private_one_is_private(address: str, public: bool) -> None:
    import ipaddress

    assert is_public(ipaddress.ip_address(address)) is public


async def test_an_unchecked_guard_would_connect(web: Web) -> None:
    """The checks above can fail: without a list of private hosts the same address is connected to."""
    web.page("/", b"reached")
    async with httpx.AsyncClient(transport=EgressGuard([web.host])) as client:
        assert (await client.get(web.url("/"))).text == "reached"
    with pytest.raises(EgressDenied):
        await EgressGuard([web.host], private=[]).check(web.url("/"))


@pytest.mark.parametrize("charset", ["punycode", "IDNA", "base64", "no-such", "utf-8"])
async def test_a_page_is_read_in_an_encoding_of_pages_whatever_it_claims(web: Web, charset: str) -> None:
    url = web.page("/", "grüße-a-b".encode(), content_type=f"text/plain; charset={charset}")
    assert (await get(tool_for(web), url)).value["text"] == "grüße-a-b"
