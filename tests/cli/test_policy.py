"""``agentsys policy``: what it says of good policies, bad ones, and the step from one to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.cli.app import app

POLICY = """
[domains.contacts]
values = ["ann@example.org"]
[endorsers.contact]
domain = "contacts"
[tools.send]
audience = ["argument:to"]
declassifies = true
[tools.send.arguments]
to = { role = "target", endorsers = ["contact"] }
text = { role = "payload" }

[[tests]]
name = "a stranger does not choose the recipient"
tool = "send"
arguments = { to = "eve", text = "x" }
labels = { to = { by = ["external"] } }
expect = "deny"
rule = "integrity"

[[tests]]
name = "a contact may be chosen by a stranger's words"
tool = "send"
arguments = { to = "ann@example.org", text = "x" }
labels = { to = { by = ["external"], through = ["contact"] }, text = { by = ["external"] } }
expect = "allow"
"""
NUMBER = "[endorsers.n]\ntype = 'number'\nmaximum = 9"
DATE = "[endorsers.d]\ntype = 'date'\nformat = '%d.%m.%Y'"
MEMBER = "[domains]\nfew = { values = ['a'] }\nmany = { values = ['a', 'b'] }\nfound = { tool = 'look' }\n[endorsers.m]"
SAID = "[tools.x]\nsource = []"
LOOSER = POLICY.replace('role = "target", endorsers = ["contact"]', 'role = "payload"')


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "strict.toml").write_text(POLICY)
    (tmp_path / "looser.toml").write_text(LOOSER)
    return tmp_path


def invoke(*words: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["policy", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_a_good_policy_passes_its_own_tests_and_a_looser_one_does_not(policies: Path) -> None:
    assert invoke("test", policies / "strict.toml")[:2] == (0, "2 of 2 tests passed\n")
    code, out, err = invoke("test", policies / "looser.toml")
    assert (code, out) == (1, "1 of 2 tests passed\n")
    assert "a stranger does not choose the recipient: expected deny, got allow" in err


def test_who_is_trusted_needs_no_endorser_in_tests_as_in_runs(policies: Path) -> None:
    file = policies / "strict.toml"
    trusting = POLICY.replace(', endorsers = ["contact"]', "").replace('["external"]', '["user:ann"]')
    file.write_text(f'trusted = ["user:owner", "user:ann"]\n{trusting}')
    assert "1 of 2 tests passed" in invoke("test", file)[1], "only what is to be denied is allowed"


def test_of_tests_that_share_a_name_each_counts(policies: Path) -> None:
    file = policies / "looser.toml"
    trial = LOOSER[LOOSER.index("[[tests]]") :]
    file.write_text(LOOSER + trial)
    code, out, err = invoke("test", file)
    assert (code, out) == (1, "2 of 4 tests passed\n")
    assert err.count("expected deny, got allow") == 2
    told = json.loads(invoke("test", file, "--json")[1])
    assert told["tests"] == 4 and len(told["faults"]) == 2


def test_advice_names_what_is_likely_a_mistake(policies: Path) -> None:
    _, out, err = invoke("check", policies / "looser.toml")
    assert "declassifies to a fixed audience, and no argument is a target" in err
    assert "to names the audience, and strangers may shape it" in err
    assert "endorsers.contact: no argument accepts it" in err
    assert "1 tools, 2 tests" in out
    assert invoke("check", policies / "strict.toml")[2] == ""


def test_advice_knows_the_tools_of_a_program(policies: Path) -> None:
    program = policies / "my_tools.py"
    program.write_text(
        "from agentsys import tool\n\n@tool()\ndef send(to: str) -> None: ...\n\n@tool()\ndef wipe() -> None: ...\n"
    )
    err = invoke("check", policies / "strict.toml", "--program", program)[2]
    assert "tools.send.arguments.text: the tool has no such argument" in err
    assert "tools.wipe: consequential, and the policy says nothing of it" in err


def test_what_changes_between_two_policies_is_told_and_what_is_looser_can_fail(policies: Path) -> None:
    strict, looser = policies / "strict.toml", policies / "looser.toml"
    code, out, _ = invoke("diff", strict, looser, "--no-looser", "--json")
    changes = json.loads(out)
    assert code == 1
    assert [change["situation"] for change in changes["verdicts"] if change["direction"] == "looser"] == [
        "to from strangers"
    ]
    assert "tools.send.arguments.to.role" in [change["place"] for change in changes["texts"]]
    assert invoke("diff", looser, strict, "--no-looser")[0] == 0
    assert json.loads(invoke("diff", strict, strict, "--json")[1]) == {"verdicts": [], "texts": []}


@pytest.mark.parametrize(
    ("tight", "wide"),
    [
        ("closed = true", ""),
        ("budget_bits = 8", "budget_bits = 9"),
        ("run_cost = 3.0", ""),
        ("", "trusted = ['user:owner', 'mail']"),
        ("links = ['a.org']", "links = ['a.org', 'b.org']"),
        ("[tools.x]\nlimits = { run = 2 }", "[tools.x]\nlimits = { run = 200 }"),
        ("[tools.x]\nlimits = { hour = 2 }", "[tools.x]"),
        ("[tools.x.arguments.url]\nhosts = ['a.org']", "[tools.x.arguments.url]\nrole = 'control'"),
        ("[domains.d]\nvalues = ['a']", "[domains.d]\nvalues = ['a', 'b']"),
        (f"{NUMBER}\nminimum = 5", f"{NUMBER}\nminimum = 4"),
        (f"{NUMBER}\nminimum = 5\nstep = 2", f"{NUMBER}\nminimum = 5"),
        ("[tools.x]", "[tools.x]\nsource = []"),
        ("[tools.x]", "[tools.x]\nsources = { url = { 'https://a.org' = [] } }"),
        ("[tools.'x.y']", "[tools.'x.y']\nreaders = ['everyone']"),
        ("[tools.x]\ncost = 2.0", "[tools.x]\ncost = 1.0"),
        ("[tools.x]\nsource = ['web', 'mail']", "[tools.x]\nsource = ['web']"),
        ("[tools.x]\nfields = { '*.from' = ['web'] }", "[tools.x]\nfields = { '*.from' = [] }"),
        ("[tools.x]\nreaders = ['user:owner']", "[tools.x]\nreaders = ['everyone']"),
        ("[tools.x.arguments.text]\nlinks = 'defang'", "[tools.x.arguments.text]\nlinks = 'keep'"),
        (
            f"{DATE}\nearliest = '02.02.2025'\nlatest = '01.03.2025'",
            f"{DATE}\nearliest = '28.01.2025'\nlatest = '01.03.2025'",
        ),
        (
            f"{DATE}\nearliest = '01.01.2025'\nlatest = '30.01.2025'",
            f"{DATE}\nearliest = '01.01.2025'\nlatest = '01.02.2025'",
        ),
        (f"{MEMBER}\ndomain = 'few'", f"{MEMBER}\ndomain = 'many'"),
        (f"{SAID}\nsources = {{ url = {{ 'https://a.org' = ['web'] }} }}", SAID),
        (f"{SAID}\nfields = {{ '*.body' = ['web'] }}", SAID),
    ],
)
def test_a_bound_that_is_wider_can_fail_though_no_situation_is_decided_otherwise(
    tmp_path: Path, tight: str, wide: str
) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(tight)
    new.write_text(wide)
    code, out, _ = invoke("diff", old, new, "--no-looser", "--json")
    assert code == 1 and [change["looser"] for change in json.loads(out)["texts"]].count(True) == 1
    assert invoke("diff", new, old, "--no-looser")[0] == 0
    assert "looser" in invoke("diff", old, new)[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[tools.x]\nsource = ['web']", "[tools.x]\nsource = ['web']\nfields = { '*.from' = ['mail'] }"),
        (f"{MEMBER}\ndomain = 'few'", f"{MEMBER}\ndomain = 'found'"),
        ("[domains.d]\nvalues = ['a']", "[domains.d]\ntool = 'look'"),
        ("[domains.d]\ntool = 'find'", "[domains.d]\ntool = 'look'"),
        ("[domains.d]\ntool = 'look'", "[domains.d]\ntool = 'look'\npath = '*.name'"),
        (f"{NUMBER}\nminimum = 5", f"{NUMBER}\nminimum = 5\nas_text = true"),
        (f"{NUMBER}\nminimum = 5", "[endorsers.n]\ntype = 'boolean'"),
        (
            "[endorsers.d]\ntype = 'date'\nearliest = '2025-01-02'\nlatest = '2025-02-03'",
            f"{DATE}\nearliest = '02.01.2025'\nlatest = '03.02.2025'",
        ),
    ],
)
def test_what_lets_through_other_things_than_before_can_fail_either_way(tmp_path: Path, one: str, other: str) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    for before, after in ((one, other), (other, one)):
        old.write_text(before)
        new.write_text(after)
        code, out, _ = invoke("diff", old, new, "--no-looser", "--json")
        assert code == 1 and [change["looser"] for change in json.loads(out)["texts"]].count(True) >= 1


def test_explaining_says_the_verdict_of_each_situation(policies: Path) -> None:
    found = json.loads(invoke("explain", "send", "--file", policies / "strict.toml", "--json")[1])["send"]
    assert found["to from strangers"]["verdict"] == "deny"
    assert found["to from strangers, through contact"]["rule"] == "declassified"
    assert found["text that only another person may read"]["rule"] == "audience"
    assert invoke("explain", "--file", policies / "strict.toml")[0] == 0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[tools.x]\nask = 'maybe'", "tools.x.ask"),
        ("[tools.x]\nfoo = 1", "tools.x.foo"),
        ("[endorsers.z]\ndomain = 'no'", "no domain is named 'no'"),
        ("[endorsers.z]\ntype = 'number'\nminimum = 3\nmaximum = 1", "finite minimum"),
        ("[endorsers.z]\ntype = 'date'\nearliest = '2024'\nlatest = '2025'", "does not match format"),
        ("[endorsers.person]\ntype = 'boolean'", "stands for a person"),
        ("[domains.d]\n", "give either values or tool"),
        ("[tools.x.arguments]\ny = { endorsers = ['nobody'] }", "no endorser is named 'nobody'"),
        ("= 1", "is no TOML"),
    ],
)
def test_a_bad_policy_is_refused_with_the_place(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    code, _, err = invoke("check", tmp_path / "bad.toml")
    assert code == 2
    assert "AGS-0311" in err
    assert fault in err.replace("\n", " ")


def test_without_a_file_the_settings_policy_is_taken(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(policies)
    code, _, err = invoke("check")
    assert code == 2
    assert "No policy is given" in err
    monkeypatch.setenv("AGENTSYS_POLICY", str(policies / "strict.toml"))
    assert invoke("check")[0] == 0


def test_a_program_runs_under_the_settings_policy_and_not_under_two(
    policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = policies / "sending.py"
    program.write_text(
        "from agentsys import Context, Workflow, tool\n\n"
        "@tool()\ndef send(to: str, text: str) -> str:\n    return 'sent'\n\n"
        "async def main(context: Context, _):\n    return (await context.call('send', to='a', text='b')).value\n\n"
        "flow = Workflow('flow', main)\n"
    )
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(policies / "board.db"))
    refused = CliRunner().invoke(app, ["run", str(program)])
    assert refused.exit_code == 3, "what the owner says is private, and nothing lets it out"
    monkeypatch.setenv("AGENTSYS_POLICY", str(policies / "strict.toml"))
    assert CliRunner().invoke(app, ["run", str(program)]).exit_code == 0
    program.write_text(program.read_text() + "\nfrom agentsys import Policy\npolicy = Policy()\n")
    twice = CliRunner().invoke(app, ["run", str(program)])
    assert twice.exit_code == 2
    assert "give a policy" in twice.stderr


def test_the_schema_of_the_file_is_printed() -> None:
    schema = json.loads(invoke("schema")[1])
    assert {"tools", "endorsers", "domains", "tests"} <= set(schema["properties"])


def test_brackets_in_names_are_shown(policies: Path) -> None:
    file = policies / "looser.toml"
    file.write_text(LOOSER.replace("a stranger does", "[/x] a [red] stranger does"))
    code, _, err = invoke("test", file)
    assert code == 1 and "[/x] a [red] stranger does not choose the recipient" in err
    code, out, _ = invoke("explain", "read[all]", "--file", file)
    assert code == 0 and "read[all]: told to" in out
