"""Links that strangers wrote are made inactive wherever they stand; where else they lead, a reader can still see."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.policy.addresses import egress_fault
from agentsys.policy.links import defang
from agentsys.policy.rules import ArgumentRule, ToolRule

ALLOWED = frozenset({"good.example", "docs.example", "www.only.example"})


@pytest.mark.parametrize(
    ("text", "inactive"),
    [
        ("see http://evil.example/a?b=c#d now", "see hxxp[:]//evil[.]example/a?b=c#d now"),
        ("HTTPS://Evil.Example", "HXXPS[:]//Evil[.]Example"),
        ("ftp://evil.example:21/x", "fxp[:]//evil[.]example:21/x"),
        ("gopher://evil", "gopher[:]//evil"),
        ("http://1.2.3.4/x", "hxxp[:]//1[.]2[.]3[.]4/x"),
        ("http://good.example@evil.example/", "hxxp[:]//good[.]example@evil[.]example/"),
        ("http://good.example:80@evil.example/", "hxxp[:]//good[.]example:80@evil[.]example/"),
        ("[here](http://evil.example)", "[here](hxxp[:]//evil[.]example)"),
        ("www.evil.zip", "www[.]evil[.]zip"),
        ("evil.example/path", "evil[.]example/path"),
        ("evil.com", "evil[.]com"),
        ("a.b.evil.co.", "a[.]b[.]evil[.]co."),
        ("<a href='http://evil.example'>", "<a href='hxxp[:]//evil[.]example'>"),
        ("http://sub.good.example/", "hxxp[:]//sub[.]good[.]example/"),
        ("http://good.example.evil.example/", "hxxp[:]//good[.]example[.]evil[.]example/"),
        ("file:///etc/passwd", "file[:]///etc/passwd"),
        ("javascript:alert(1)", "javascripx[:]alert(1)"),
        ("//evil.example/x", "[//]evil[.]example/x"),
        (r"\\evil.example\x", r"[\\]evil[.]example\x"),
        (r"http:\\evil.example", r"hxxp[:]\\evil[.]example"),
        ("http:evil.example", "hxxp[:]evil[.]example"),
        ("[x](slack:channel)", "[x](slack[:]channel)"),
        ("http://[::1]/x", "hxxp[:]//[::1]/x"),
        ("http://evil\u3002example/x", "hxxp[:]//evil[.]example/x"),
        ("ev\u200bil.com", "evil[.]com"),
        ("ht\u00adtp://evil.example", "hxxp[:]//evil[.]example"),
        ("https://#top", "hxxps[:]//#top"),
        ("http:///good.example", "hxxp[:]///good[.]example"),
        ("evil.mov", "evil[.]mov"),
        ("http://good.example\\@evil.example", "hxxp[:]//good[.]example\\@evil[.]example"),
        ("ftp://good.example", "fxp[:]//good[.]example"),
        ("https://good.example'.evil.com/x", "hxxps[:]//good[.]example'.evil.com/x"),
        ('https://good.example".evil.com', 'hxxps[:]//good[.]example".evil.com'),
        ("https://good.example),x.evil.com", "hxxps[:]//good[.]example),x[.]evil[.]com"),
        ("www.only.example'.evil.com/", "www[.]only[.]example'.evil.com/"),
    ],
)
def test_a_strangers_link_is_inactive(text: str, inactive: str) -> None:
    assert defang(text, ALLOWED) == inactive


@pytest.mark.parametrize(
    "text",
    [
        "http://good.example/a",
        "https://GOOD.example:8443/a",
        "https://www.docs.example",
        "www.docs.example",
        "good.example/x",
        "ann@evil.com is an address",
        "ann.b@evil.com",
        "version 1.2.3 of a.b",
        "https://www.only.example",
        "e.g. this",
        "HTTP://good.example/",
        "a family \U0001f468\u200d\U0001f469\u200d\U0001f467 without a link",
        "a family \U0001f468\u200d\U0001f469 and evil at nothing",
        "//good.example/x",
        "http:good.example",
        "[here](http://good.example). And more.",
        '<a href="https://good.example">here</a>',
        '{"url": "https://good.example","next":1}',
        "('https://good.example')",
        "",
    ],
)
def test_allowed_hosts_addresses_and_plain_text_stay(text: str) -> None:
    assert defang(text, ALLOWED) == text


@pytest.mark.parametrize("top", ["com", "net", "org", "io", "ly", "uk", "online", "link", "zip", "mov"])
def test_a_bare_host_under_a_common_top_domain_is_a_link(top: str) -> None:
    assert defang(f"see evil.{top}, now") == f"see evil[.]{top}, now"


def test_links_are_found_in_every_part_of_a_value() -> None:
    value = {"a": ["evil.com", {"b": "evil.com"}], "evil.com": 1, "n": None, "f": 1.5, "t": True}
    inert = "evil[.]com"
    assert defang(value) == {"a": [inert, {"b": inert}], inert: 1, "n": None, "f": 1.5, "t": True}


@settings(deadline=None)
@given(before=st.text(max_size=10), host=st.sampled_from(["evil.example", "x.evil.com", "[::1]", "evil"]))
def test_no_active_link_of_a_scheme_is_left(before: str, host: str) -> None:
    text = defang(f"{before} http://{host}/x", ALLOWED)
    assert isinstance(text, str)
    assert f"http://{host}" not in text


@pytest.mark.parametrize(
    ("hosts", "value", "fault"),
    [
        (None, "http://evil.example", None),
        (("a.org",), None, None),
        (("a.org",), "https://a.org/x", None),
        (("a.org",), ["https://a.org/x"], None),
        (("a.org", "b.org"), "https://c.org/x", "url leads to 'https://c.org/x', and only a.org, b.org is allowed"),
        (("a.org",), ["https://a.org", "https://c.org"], "url leads to 'https://c.org', and only a.org is allowed"),
        ((), "https://a.org", "url leads to 'https://a.org', and only no host is allowed"),
        (("a.org",), 7, "url leads to '7', and only a.org is allowed"),
        (("a.org",), "x" * 300, f"url leads to '{'x' * 200}', and only a.org is allowed"),
    ],
)
def test_an_address_leads_to_a_named_host_or_nowhere(hosts: object, value: object, fault: str | None) -> None:
    rule = ToolRule(arguments={"url": ArgumentRule(hosts=hosts), "other": ArgumentRule()})  # type: ignore[arg-type]
    assert egress_fault(rule, {"url": value, "other": "http://evil.example"}) == fault
