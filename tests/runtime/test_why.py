"""Why a step came out as it did: the rule, the labels it was decided on, and the way of each influencer to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.cli.app import app
from agentsys.policy.domains import Domain
from agentsys.policy.endorsers import Endorser
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ArgumentRule, ToolRule
from agentsys.runs import UnknownRun
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool
from agentsys.views.why import CALLER, UnknownStep, Why, list_steps, load_why
from agentsys.views.withholding import withhold


@tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, consequential=False, source=Label(frozenset({"web:eve"}), PUBLIC))
def look() -> dict[str, str]:
    return {"sender": "ann@example.org", "text": "PELICAN"}


@tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=Label.trusted())
def send(to: str, text: str) -> str:
    return "sent"


POLICY = Policy(
    tools={"send": ToolRule(arguments={"to": ArgumentRule(role="target", endorsers=("contact",))})},
    domains={"contacts": Domain(values=("ann@example.org",))},
    endorsers={"contact": Endorser(domain="contacts")},
)


async def works(context: Any, text: Any) -> Any:
    page = await context.call_hidden("look")
    known = await context.endorse(page["sender"], "contact")
    await context.call_hidden("send", to=known, text="hello")
    await context.call_hidden("send", to=page["text"], text="hello")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "board.db"


@pytest.fixture
def board(path: Path) -> Iterator[Board]:
    with Board.open(path) as opened:
        yield opened


def runtime_on(board: Board) -> Runtime:
    return Runtime(board, ScriptedModel(str), tools=[look, send], workflows=[works], policy=POLICY)


async def test_a_denial_names_the_rule_the_labels_and_the_way_of_the_stranger(board: Board):
    await runtime_on(board).run("works", "hi", run_id="r")
    rows = list_steps(board, "r")
    assert [(row.kind, row.outcome, row.rule) for row in rows] == [
        ("call", "allowed", "harmless"),
        ("endorse", "allowed", "endorsed"),
        ("call", "allowed", "consequential"),
        ("call", "denied", "integrity"),
    ]
    denied = load_why(board, "r", "3")
    (decided,) = denied.decisions
    assert not decided.decision.allowed and "web:eve" in decided.decision.reason
    assert decided.decision.policy == POLICY.version
    parts = {part.name: part.label for part in decided.parts}
    assert parts[CALLER].influencers == {OWNER} and "web:eve" in parts["to"].influencers
    ways = {origin.influencer: origin.path for origin in denied.origins}
    titles = [denied.node(identity) for identity in ways["web:eve"]]
    assert titles[0] is not None and titles[0].kind == "tool result" and titles[0].title.startswith("look")
    assert ways["web:eve"][-1].endswith("main#1:0003@1") and ways[OWNER]


async def test_an_endorsed_influencer_is_followed_too(board: Board):
    await runtime_on(board).run("works", "hi", run_id="r")
    allowed = load_why(board, "r", "main#1:0002")
    assert "web:eve" not in allowed.label.influencers
    (way,) = [origin.path for origin in allowed.origins if origin.influencer == "web:eve"]
    first = allowed.node(way[0])
    assert first is not None and first.title.startswith("look")


async def test_what_is_not_there_is_said(board: Board):
    await runtime_on(board).run("works", "hi", run_id="r")
    with pytest.raises(UnknownRun):
        load_why(board, "none", "1")
    for step in ("9", "main", "none"):
        with pytest.raises(UnknownStep):
            load_why(board, "r", step)


async def test_what_a_label_keeps_is_withheld(board: Board):
    anns = Label.trusted("user:ann", Readers.of("user:ann"))
    await runtime_on(board).run("works", "hi", run_id="r", label=anns)
    shown = withhold(load_why(board, "r", "2"), OWNER)
    assert isinstance(shown, Why) and "PELICAN" not in repr(shown)
    assert shown.decisions[0].decision.withheld and shown.decisions[0].decision.reason == ""
    assert all(row.withheld for row in withhold(list_steps(board, "r"), OWNER))
    assert "PELICAN" in repr(load_why(board, "r", "2")), "the search can fail"


async def test_the_command_prints_a_tree_and_json(board: Board, path: Path):
    await runtime_on(board).run("works", "hi", run_id="r")
    board.close()
    run = CliRunner()
    listed = run.invoke(app, ["why", "r", "--board", str(path), "--json"])
    assert listed.exit_code == 0 and [row["outcome"] for row in json.loads(listed.stdout)][-1] == "denied"
    tree = run.invoke(app, ["why", "r", "3", "--board", str(path)], env={"COLUMNS": "200"})
    assert tree.exit_code == 0
    for text in ("denied call send by rule integrity", "the caller", "web:eve", "tool result look", POLICY.version):
        assert text in tree.stdout, text
    found = json.loads(run.invoke(app, ["why", "r", "3", "--board", str(path), "--json"]).stdout)
    assert found["decisions"][0]["decision"]["rule"] == "integrity"
    unknown = run.invoke(app, ["why", "r", "99", "--board", str(path)])
    assert unknown.exit_code == 1 and "AGS-0337" in unknown.output
