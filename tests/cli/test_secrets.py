"""``agentsys secrets`` and ``agentsys tools`` say what there is, and never a value."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentsys.approvals import Approval
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.labels import OWNER, Label
from agentsys.cli.app import app
from agentsys.runs import RunRecord

VALUE = "hunter2-hunter2"
SETTINGS = """
[secrets.hub]
variable = "HUB_TOKEN_OF_TESTS"
tools = ["fetch"]
readers = ["web:api.example.org"]
[secrets.gone]
file = "nowhere.txt"
tools = ["mine"]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agentsys.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB_TOKEN_OF_TESTS", VALUE)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    assert VALUE not in result.output
    return result.stdout


def test_secrets_are_listed_by_name_and_source() -> None:
    gone, hub = json.loads(run("secrets", "list", "--json"))
    assert gone == {"secret": "gone", "source": "file nowhere.txt", "tools": ["mine"], "readers": []}
    assert hub["source"] == "variable HUB_TOKEN_OF_TESTS" and hub["readers"] == ["web:api.example.org"]
    assert "hub" in run("secrets", "list") and "fetch" in run("secrets", "list")


def test_a_missing_secret_is_told_of(tmp_path: Path) -> None:
    gone, hub = json.loads(run("secrets", "check", "--json", code=1))
    assert not gone["ok"] and "nowhere.txt" in gone["fault"] and hub["ok"]
    assert "missing" in run("secrets", "check", code=1)
    (tmp_path / "nowhere.txt").write_text(VALUE)
    checked = json.loads(run("secrets", "check", "--json"))
    assert all(one["ok"] for one in checked) and "no readers" in checked[0]["advice"]


def test_a_value_in_the_settings_is_refused_unshown(tmp_path: Path) -> None:
    (tmp_path / "agentsys.toml").write_text(f'[secrets]\nhub = "{VALUE}"\n')
    result = CliRunner().invoke(app, ["secrets", "list"])
    assert result.exit_code == 2 and VALUE not in result.output and "secrets.hub" in result.output


def test_config_show_and_doctor_show_no_value() -> None:
    assert "HUB_TOKEN_OF_TESTS" in run("config", "show", "--json")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    (finding,) = [one for one in json.loads(result.stdout) if one["subject"] == "secrets"]
    assert finding["state"] == "warning" and "gone" in finding["detail"] and VALUE not in result.output


def test_tools_are_listed_with_what_they_may_do(tmp_path: Path) -> None:
    assert json.loads(run("tools", "list", "--json")) == []
    (tmp_path / "agentsys.toml").write_text('[tools]\nbuiltin = ["run_python", "fetch"]\n[fetch]\nhosts = ["a.org"]\n')
    python, fetch = json.loads(run("tools", "list", "--json"))
    assert python["tool"] == "run_python" and not python["consequential"] and python["audience"] == "nobody"
    assert fetch["audience"] == "web:a.org" and "token" in fetch["arguments"]["properties"]
    assert "run_python" in run("tools", "list")
    (tmp_path / "agentsys.toml").write_text('[tools]\nbuiltin = ["fetch"]\n')
    assert "AGS-0100" in CliRunner().invoke(app, ["tools", "list"]).output


def test_a_file_runs_with_the_tools_and_secrets_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "agentsys.toml").write_text(SETTINGS + '[tools]\nbuiltin = ["run_python"]\n')
    (tmp_path / "flow.py").write_text(
        "import os\n"
        "from pydantic import SecretStr\n"
        "from agentsys import EffectClass, Workflow, tool\n"
        "@tool(effect=EffectClass.PURE)\n"
        "def fetch(key: SecretStr) -> str:\n"
        "    return f'used {key.get_secret_value()}'\n"
        "async def main(context, value):\n"
        "    total = (await context.call('run_python', code=f'sum({value})')).value['value']\n"
        "    return [total, (await context.call('fetch', key={'secret': 'hub'})).value]\n"
        "flow = Workflow.of(main)\n"
    )
    board = str(tmp_path / "board.db")
    printed = run("run", "flow.py", "--input", "[1, 2, 3]", "--board", board, "--json")
    assert json.loads(printed)["value"] == [6, "used [secret hub]"]
    assert VALUE.encode() not in (tmp_path / "board.db").read_bytes()


def test_a_value_that_a_person_gives_by_mistake_is_not_put_on_record(tmp_path: Path) -> None:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        record = RunRecord("r", "care", None, Label.trusted(OWNER), 0.0, None)
        asked = Approval("a1", "r", "care", "value", "a name", "ann", "value", "", 0.0, approvers=(OWNER,))
        intent = EffectIntent("e1", "r", "main#1:0000", "send", EffectClass.IRREVERSIBLE, {}, Label.trusted(OWNER))
        begun = board.begin(OWNER, run="r")
        record.write(begun)
        replace(asked, label=Label.trusted(OWNER)).write(begun)
        begun.plan_effect(intent)
        begun.start_effect("e1")
        board.commit(begun)
        ended = board.begin(OWNER, run="r")
        ended.finish_effect("e1", "in_doubt", {"error": "no answer"}, Label.trusted(OWNER))
        board.commit(ended)
    where = ("--board", str(path))
    run("effects", "settle", "e1", "succeeded", "--result", json.dumps([VALUE]), "--note", f"it said {VALUE}", *where)
    run("approvals", "modify", "a1", "--edited", json.dumps(VALUE), "--note", f"not {VALUE}", *where)
    with Board.open(path) as board:
        effect, word = board.effect("e1"), Approval.load(board, "a1")
    assert effect is not None and isinstance(effect.result, dict) and effect.result["value"] == ["[secret hub]"]
    assert (word.edited, word.note) == ("[secret hub]", "not [secret hub]")
    assert VALUE.encode() not in path.read_bytes()
