"""What the gateway says of addresses and secrets among arguments: hosts and who is behind them, grants, readers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY, PUBLIC, Label, Readers
from agentsys.gateway import Allow, Deny, Gateway
from agentsys.policy.addresses import egress_fault
from agentsys.policy.advice import advice
from agentsys.policy.documents import PolicyFault, load_policy, read_policy
from agentsys.policy.rules import ArgumentRule, ToolRule, naming
from agentsys.policy.situations import verdicts
from agentsys.secrets import Secret, Secrets
from agentsys.tools import Tool, ToolRegistry, tool

VALUE = "not-for-others"
OPEN = Label.trusted(readers=PUBLIC)


@tool(effect=EffectClass.IDEMPOTENT, consequential=False, audience=NOBODY)
def ask(url: Any = None, key: SecretStr | None = None, note: str = "") -> str:
    return ""


def decide(policy: str, *, control: Label = OPEN, secrets: Secrets | None = None, **arguments: Any) -> Allow | Deny:
    decided = Gateway(read_policy(policy), ToolRegistry([ask]), secrets or Secrets()).decide(
        "ask", arguments, control=control, labels={}
    )
    assert isinstance(decided, Allow | Deny)
    return decided


NARROW = '[tools.ask.arguments]\nurl = { role = "target", hosts = ["a.org", "*.b.org"] }\n'


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https://a.org/x", "harmless"),
        ("https://y.b.org", "harmless"),
        (["https://a.org", "https://y.b.org"], "harmless"),
        ([], "harmless"),
        (None, "harmless"),
        ("https://c.org", "egress"),
        ("https://b.org", "egress"),
        (["https://a.org", "https://c.org"], "egress"),
        ("", "egress"),
        (7, "egress"),
        ([None], "egress"),
    ],
)
def test_an_address_leads_to_the_hosts_that_the_policy_names(url: Any, rule: str) -> None:
    decided = decide(NARROW, url=url)
    assert decided.rule == rule
    if isinstance(decided, Deny):
        assert (
            decided.telling and "url leads to" in decided.reason and "only a.org, *.b.org is allowed" in decided.reason
        )


def test_other_arguments_and_rules_without_hosts_say_nothing_of_addresses() -> None:
    assert decide(NARROW, note="https://c.org").rule == "harmless"
    assert decide("", url="https://c.org").rule == "harmless"
    nowhere = ToolRule(arguments={"note": ArgumentRule(), "url": ArgumentRule(hosts=())})
    assert egress_fault(nowhere, {"url": "https://" + "x" * 300, "note": "y"}) == (
        f"url leads to {('https://' + 'x' * 300)[:200]!r}, and only no host is allowed"
    )
    assert egress_fault(nowhere, {"note": "y"}) is None


def test_the_host_of_an_address_learns_of_the_call() -> None:
    policy = '[tools.ask]\naudience = ["host:url", "argument:note", "user:cy"]\n'
    readers = Readers.of("user:owner", "web:a.org", "web:b.org:81", "user:ann", "user:cy")
    private = Label.trusted(readers=readers)
    assert decide(policy, control=private, url="https://a.org/", note="user:ann").rule == "harmless"
    assert (
        decide(policy, control=private, url=["https://a.org/", "http://b.org:81"], note="user:ann").rule == "harmless"
    )
    for url, note in (("https://c.org/", "user:ann"), ("https://b.org", "user:ann"), ("https://a.org/", "user:bob")):
        decided = decide(policy, control=private, url=url, note=note)
        assert isinstance(decided, Deny) and decided.rule == "audience" and decided.telling
    for odd in ("a.org", "", 7, ["https://a.org", None]):
        assert decide(policy, url=odd, note="user:ann").rule == "error-in-check", odd
    assert decide(policy, url=None, note="user:ann").rule == "harmless"


def test_what_names_the_audience_is_no_payload_and_has_an_example() -> None:
    assert [naming(member) for member in ("host:url", "argument:to", "user:ann", "everyone")] == [
        "url",
        "to",
        None,
        None,
    ]
    loose = read_policy('[tools.ask]\naudience = ["host:url"]\n[tools.ask.arguments]\nurl = { role = "payload" }\n')
    assert advice(loose) == ["tools.ask: url names the audience, and strangers may shape it"]
    told = read_policy('[tools.ask]\nconsequential = false\naudience = ["host:url", "argument:to"]\n')
    assert verdicts(told, "ask")["a trusted caller, the owner's private data"].reason == (
        "ask, through the caller, would disclose to somebody, web:somebody.example what only user:owner may read"
    )
    narrow = read_policy(NARROW.replace('"a.org", ', "") + "\n[tools.ask]\nconsequential = false\naudience = []\n")
    assert {outcome.verdict for text, outcome in verdicts(narrow, "ask").items() if "another" not in text} == {"allow"}

    only_b = NARROW.replace('"a.org", ', "")
    told = read_policy(only_b + '\n[tools.ask]\nconsequential = false\naudience = ["host:url"]\n')
    assert "to web:somebody.b.org what" in verdicts(told, "ask")["a trusted caller, the owner's private data"].reason
    silent = read_policy("[tools.ask]\nconsequential = false\n[tools.ask.arguments]\nnote = {}\n")
    assert verdicts(silent, "ask")["a trusted caller, public data"].verdict == "allow"
    other = ToolRule(arguments={"to": ArgumentRule()}, audience=("argument:cc",))
    assert "to from strangers" in verdicts(silent, "ask", [other])


def test_a_policy_that_comes_with_the_package_is_found_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "fetch" in load_policy(Path("builtin")).tools
    for other in ("nonsuch", "./sub/builtin", str(tmp_path / "builtin")):
        with pytest.raises(PolicyFault, match=re.escape(f"The policy {Path(other)} cannot be read")):
            load_policy(Path(other))
    (tmp_path / "mine.toml").write_text("")
    with pytest.raises(PolicyFault):
        load_policy(tmp_path / "mine")
    (tmp_path / "builtin").write_text('owner = "user:me"\n')
    assert load_policy(Path("builtin")).owner == "user:me", "a file of one's own goes first"


def secrets(monkeypatch: pytest.MonkeyPatch, *tools: str, readers: Readers = NOBODY) -> Secrets:
    monkeypatch.setenv("SECRET_OF_IFC_TESTS", VALUE)
    return Secrets.of(Secret("hub", "SECRET_OF_IFC_TESTS", tools=frozenset(tools), readers=readers))


def test_a_secret_needs_a_grant_and_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"key": {"secret": "hub"}}
    assert decide("", secrets=secrets(monkeypatch, "ask"), **named).rule == "harmless"
    for held in (Secrets(), secrets(monkeypatch), secrets(monkeypatch, "other")):
        denied = decide("", secrets=held, **named)
        assert isinstance(denied, Deny) and (denied.rule, denied.telling) == ("secret", True)
    told = '[tools.ask]\naudience = ["web:a.org"]\ndeclassifies = true\n'
    both = Readers.of("web:a.org", "web:b.org")
    assert decide(told, secrets=secrets(monkeypatch, "ask", readers=both), **named).rule == "harmless"
    assert decide(told, secrets=secrets(monkeypatch, "ask"), **named).rule == "secret"
    everyone = '[tools.ask]\naudience = ["everyone"]\n'
    denied = decide(everyone, secrets=secrets(monkeypatch, "ask", readers=both), **named)
    assert isinstance(denied, Deny) and "to everyone" in denied.reason
    hosts = '[tools.ask]\naudience = ["host:url"]\n'
    only_a = secrets(monkeypatch, "ask", readers=Readers.of("web:a.org"))
    assert decide(hosts, secrets=only_a, url="https://a.org", **named).rule == "harmless"
    assert decide(hosts, secrets=only_a, url="https://b.org", **named).rule == "secret"


def test_a_value_among_the_arguments_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    held = secrets(monkeypatch, "ask")
    for note in (VALUE, f"--key={VALUE}", VALUE.encode().hex()):
        denied = decide("", secrets=held, note=note)
        assert isinstance(denied, Deny) and denied.rule == "secret" and denied.telling and VALUE not in denied.reason
    assert decide("", secrets=held, note="hub").rule == "harmless"
    assert decide("", note=VALUE).rule == "harmless", "nobody said that it is one"
    odd = decide('[tools.ask]\naudience = ["argument:url"]\n', secrets=held, url={"key": VALUE})
    assert isinstance(odd, Deny) and odd.rule == "error-in-check" and VALUE not in odd.reason


def test_a_planted_gateway_without_secrets_lets_them_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above can fail."""
    monkeypatch.setattr(Secrets, "refusal", lambda *_: None)
    monkeypatch.setattr(Secrets, "fault", lambda *_: None)
    assert decide("", secrets=Secrets(), key={"secret": "hub"}).rule == "harmless"
    assert isinstance(ask, Tool)
