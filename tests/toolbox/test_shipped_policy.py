"""The shipped policy of the built-in tools reads, denies and permits as it says, and speaks of the tools there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.gateway import Allow, AskCall, Deny, Gateway
from agentsys.lake.lake import Lake
from agentsys.policy.advice import advice
from agentsys.policy.documents import SHIPPED, PolicyFault, load_policy, read_policy
from agentsys.policy.policy import Policy
from agentsys.policy.situations import fault_of, outcome_of_trial, verdicts
from agentsys.settings import load_settings
from agentsys.toolbox.builtin import builtin_tools
from agentsys.tools import Tool, ToolRegistry

TEXT = (SHIPPED / "builtin.toml").read_text()
OWN = Label.trusted()
FOREIGN = Label(frozenset({"external"}), PUBLIC)


@pytest.fixture
def tools(tmp_path: Path) -> list[Tool]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("n\n1\n")
    (tmp_path / "agentsys.toml").write_text(
        '[tools]\nbuiltin = ["run_python", "fetch", "query_files"]\n[fetch]\nhosts = ["a.org"]\n'
        f"[files]\nfolder = {str(tmp_path / 'data')!r}\n[lake]\ncache = {str(tmp_path / 'cache')!r}\n"
    )
    settings = load_settings(directory=tmp_path, environment={}).settings
    return builtin_tools(settings, lambda folder: Lake.open(folder, cache=tmp_path / "cache"))


def decide(policy: Policy, tools: list[Tool], name: str, control: Label = OWN, **arguments: Any) -> Any:
    values = {key: value for key, value in arguments.items() if not isinstance(value, tuple)}
    values |= {key: value[0] for key, value in arguments.items() if isinstance(value, tuple)}
    labels = {key: value[1] for key, value in arguments.items() if isinstance(value, tuple)}
    return Gateway(policy, ToolRegistry(tools)).decide(name, values, control=control, labels=labels)


def test_it_reads_by_its_name_and_its_own_tests_pass() -> None:
    policy = load_policy(Path("builtin"))
    assert len(policy.tests) >= 7
    assert [fault_of(trial, outcome_of_trial(policy, trial)) for trial in policy.tests if trial] == [None] * len(
        policy.tests
    )
    with pytest.raises(PolicyFault):
        load_policy(Path("nonsuch"))


def test_it_speaks_of_the_tools_that_there_are_and_of_all_of_them(tools: list[Tool]) -> None:
    policy = load_policy(Path("builtin"))
    assert advice(policy, tools) == []
    assert set(policy.tools) == {one.name for one in tools}
    for one in tools:
        assert set(policy.rule(one.name).arguments) == set(one.parameters.model_fields)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('url = { role = "target" }', 'url = { role = "payload" }'),
        ('ask = "if-untrusted"', 'ask = "never"'),
        ("consequential = true", "consequential = false"),
        ('audience = ["host:url"]', 'audience = ["everyone"]'),
        ("declassifies = true", "declassifies = false"),
    ],
)
def test_a_planted_mistake_fails_its_tests_or_changes_its_verdicts(old: str, new: str) -> None:
    assert old in TEXT
    changed, policy = read_policy(TEXT.replace(old, new)), read_policy(TEXT)
    failing = [trial for trial in changed.tests if fault_of(trial, outcome_of_trial(changed, trial))]
    assert failing or verdicts(changed, "fetch") != verdicts(policy, "fetch")


def test_calls_of_the_real_tools_are_decided_as_meant(tools: list[Tool]) -> None:
    policy = load_policy(Path("builtin"))
    assert isinstance(decide(policy, tools, "run_python", FOREIGN, code=("1", FOREIGN)), Allow)
    assert isinstance(decide(policy, tools, "query_files", FOREIGN, sql="SELECT 1"), Allow)
    assert isinstance(decide(policy, tools, "fetch", url="https://a.org/"), Allow)
    shared = Label.trusted(readers=Readers.of("user:owner", "web:a.org"))
    assert decide(policy, tools, "fetch", shared, url=("https://a.org/", shared)).rule == "consequential"
    assert isinstance(decide(policy, tools, "fetch", url=("https://a.org/", FOREIGN)), AskCall)
    other = Label.trusted(readers=Readers.of("user:bob"))
    assert isinstance(decide(policy, tools, "fetch", url=("https://a.org/", other)), Deny)
    for odd in ("a.org", "", "https://", "javascript:1", "https://[::1"):
        assert isinstance(decide(policy, tools, "fetch", url=odd), Deny), odd


def test_hosts_as_policy_data_hold_whatever_the_settings_allow(tools: list[Tool]) -> None:
    narrow = TEXT.replace('url = { role = "target" }', 'url = { role = "target", hosts = ["a.org", "*.b.org:8443"] }')
    policy = read_policy(narrow)
    for url in ("https://a.org/x", "https://A.ORG:443/", "https://x.b.org:8443/"):
        assert isinstance(decide(policy, tools, "fetch", url=url), Allow), url
    for url in (
        "https://c.org/",
        "https://x.a.org/",
        "https://a.org:8443/",
        "https://a.org@c.org/",
        "https://b.org:8443/",
    ):
        denied = decide(policy, tools, "fetch", url=url)
        assert isinstance(denied, Deny) and denied.rule in ("egress", "audience"), url
    assert verdicts(policy, "fetch")["a trusted caller, public data"].verdict == "allow"


def test_without_the_policy_what_was_declared_holds(tools: list[Tool]) -> None:
    assert isinstance(decide(Policy(), tools, "fetch", FOREIGN, url="https://a.org/"), Deny)
    assert decide(Policy(), tools, "fetch", OWN, url="https://a.org/").rule == "audience"
    assert isinstance(decide(Policy(), tools, "run_python", FOREIGN, code="1"), Allow)


@pytest.mark.parametrize(("name", "said"), [("fetch", "no host"), ("query_files", "no folder")])
def test_a_tool_that_lacks_what_it_needs_is_a_fault_of_the_settings(name: str, said: str, tmp_path: Path) -> None:
    from agentsys.errors import ConfigurationError

    settings = load_settings({"tools.builtin": name}, directory=tmp_path, environment={}).settings
    with pytest.raises(ConfigurationError, match=said):
        builtin_tools(settings, lambda folder: Lake.open(folder))
