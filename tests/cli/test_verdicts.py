"""The verdicts on the command line, in this process: what is shown, said, completed and refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agentsys.approvals import Approval
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, OWNER, Label, Readers
from agentsys.cli import approvals as command
from agentsys.cli import why as why_command
from agentsys.cli.app import app
from agentsys.cli.run_argument import completed_run
from agentsys.policy.policy import Policy
from agentsys.protocols.principals import HASH, digest_of
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool

BOSS = "user:boss"
SHARED = Label(frozenset({OWNER}), Readers.of(OWNER, BOSS))


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
def send(to: str, text: str) -> str:
    return f"sent {text}"


async def forward(context: Any, text: Any) -> Any:
    return (await context.call("send", to="p\u0430ul", text=text)).value


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(tmp_path / "board.db"))
    asyncio.run(_waiting(tmp_path / "board.db"))
    return tmp_path / "board.db"


def runtime_on(board: Board) -> Runtime:
    policy = Policy.of(asks=["send"], approvers=[OWNER, BOSS])
    return Runtime(board, ScriptedModel(str), tools=[send], workflows=[forward], policy=policy)


async def _waiting(path: Path) -> None:
    """Leave a run behind that waits for a person."""
    with Board.open(path) as board:
        runtime = runtime_on(board)
        running = asyncio.create_task(runtime.run("forward", "line\n" * 200, label=SHARED, run_id="r"))
        while not runtime.approvals("pending"):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def asked() -> Any:
    (found,) = json.loads(run("approvals", "list", "--status", "all", "--json").stdout)
    return found


def resumed(path: Path) -> Any:
    async def resume() -> Any:
        with Board.open(path) as board:
            return (await runtime_on(board).resume("r")).record

    return asyncio.run(resume())


def test_what_is_asked_is_shown_as_it_is(path: Path):
    shown = run("approvals", "show", asked()["id"][:6]).stdout
    for text in (
        "forward wants to call send",
        "p⟨U+0430 CYRILLIC SMALL LETTER A⟩ul",
        "letter of another script",
        "│ line",
    ):
        assert text in shown, text
    assert "--full shows them" in shown and f"influenced by {OWNER}" in shown
    assert "--full shows them" not in run("approvals", "show", asked()["id"], "--full").stdout
    document = json.loads(run("approvals", "show", asked()["id"], "--json").stdout)
    assert document["shown"][0]["label"]["influencers"] == [OWNER] and len(document["binding"]) == 64


def test_one_argument_is_changed(path: Path):
    run("approvals", "modify", asked()["id"], code=2)
    run("approvals", "modify", asked()["id"], "--set", "text", code=2)
    assert "AGS-0335" in run("approvals", "modify", asked()["id"], "--set", "text=3", code=3).output
    run("approvals", "modify", asked()["id"], "--set", "text=short", "--set", 'to="ann"', "--note", "shorter")
    decided = asked()
    assert (decided["status"], decided["edited"]) == ("modified", {"to": "ann", "text": "short"})
    assert resumed(path).value == "sent short"
    assert "changed to" in run("approvals", "show", decided["id"]).stdout


def test_it_is_rejected_terminated_or_handed_on(path: Path):
    identity = asked()["id"]
    assert "AGS-0334" in run("approvals", "escalate", identity, "user:eve", code=3).output
    handed = json.loads(run("approvals", "escalate", identity, BOSS, "--note", "yours", "--json").stdout)
    assert (handed["assigned"], handed["status"]) == (BOSS, "pending")
    assert "AGS-0334" in run("approvals", "reject", identity, code=3).output
    assert f"handed to {BOSS}: yours" in run("approvals", "show", identity).stdout


@pytest.mark.parametrize(("verb", "code"), [("reject", "AGS-0310"), ("terminate", "AGS-0336")])
def test_a_run_ends_or_goes_on_with_a_denial(path: Path, verb: str, code: str):
    run("approvals", verb, asked()["id"], "--note", "no")
    record = resumed(path)
    assert record.failure.code == code and "no" in record.failure.message
    assert "AGS-0331" in run("approvals", "approve", asked()["id"], code=3).output


def test_a_word_about_what_has_changed_since_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Approval, "binding", property(lambda self: "0" * 64))
    shown = command._find(command.Place(None, None, None), asked()["id"])
    monkeypatch.undo()
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(path))
    monkeypatch.setattr(command, "_find", lambda place, approval: shown)
    assert "AGS-0332" in run("approvals", "approve", shown.id, code=3).output


def test_identifiers_principals_runs_and_steps_complete(path: Path):
    context = typer.Context(typer.main.get_command(app))
    identity = asked()["id"]
    assert [found for found, _ in command._completed(context, identity[:3])] == [identity]
    context.params = {"approval": identity}
    assert list(command._completed_approver(context, "user:b")) == [BOSS]
    context.params = {"run": "r"}
    assert ("r", "forward") in list(completed_run(context, ""))
    assert [found for found, _ in why_command._completed_step(context, "main")] == ["main#1:0000"]
    context.params = {"run": "latest"}
    assert [found for found, _ in why_command._completed_step(context, "main")] == ["main#1:0000"]
    assert "main#1:0000" in run("why", "latest").stdout
    context.params = {"board": "/no/such/board.db", "run": "r", "approval": "x"}
    for complete in (command._completed, command._completed_approver, completed_run):
        assert list(complete(context, "")) == []


def test_a_token_is_made_and_only_its_digest_is_for_the_settings(path: Path):
    made = run("principals", "token", "ann")
    token = made.stdout.splitlines()[0]
    assert f'token_hash = "{HASH}{digest_of(token)}"' in made.output and made.output.count(token) == 1
    document = json.loads(run("principals", "token", "ann", "--json").stdout)
    assert document["token"] != token
    (path.parent / "agentsys.toml").write_text(f'[principals.ann]\ntoken_hash = "{document["token_hash"]}"\n')
    listed = json.loads(run("principals", "list", "--json").stdout)
    assert listed == [{"name": "ann", "principal": "user:ann", "kept": "digest"}]
