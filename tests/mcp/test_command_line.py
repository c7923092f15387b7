"""`agentsys run` calls the tools of the settings' MCP servers, and `agentsys mcp` shows and accepts them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.here import command_here

SCRIPT = Path(__file__).with_name("foreign_server.py")
WORKFLOW = """
from agentsys import Workflow

async def go(context, text):
    return (await context.call("echoes__echo", text=text)).value

workflow = Workflow("go", go)
"""


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def agentsys(tmp_path: Path) -> Run:
    """Run a command here, which spares importing all that talks MCP again for each; the servers are processes."""
    (tmp_path / "go.py").write_text(WORKFLOW)

    def run(mode: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), "calls", "--mode", mode]
        settings = f'[mcp.servers.echoes]\ncommand = {json.dumps(command)}\naudience = ["user:owner"]\n'
        (tmp_path / "agentsys.toml").write_text(settings + '[mcp.servers.away]\ncommand = ["/nowhere/at/all"]\n')
        return command_here(*words, cwd=tmp_path, AGENTSYS_BOARD__PATH=str(tmp_path / "board.db"))

    return run


def states(agentsys: Run, mode: str) -> dict[str, str]:
    listed = agentsys(mode, "mcp", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    return {row["tool"] or row["server"]: row["state"] for row in json.loads(listed.stdout)}


def test_a_change_is_listed_refused_shown_and_accepted(agentsys: Run) -> None:
    assert states(agentsys, "") == {"away": "unavailable", "echo": "not used yet"}
    first = agentsys("", "run", "go.py", "--input", '"hi"')
    assert first.stdout == "hi\n", first.stderr
    assert states(agentsys, "") == {"away": "unavailable", "echo": "accepted"}
    assert states(agentsys, "changed")["echo"] == "changed"
    refused = agentsys("changed", "run", "go.py", "--input", '"hi"')
    assert refused.returncode == 1 and "AGS-0746" in refused.stderr
    # Nobody who is asked and says nothing has accepted anything.
    assert agentsys("changed", "mcp", "accept", "echoes").returncode == 1
    assert states(agentsys, "changed")["echo"] == "changed"
    accepted = agentsys("changed", "mcp", "accept", "echoes", "--yes")
    assert accepted.returncode == 0 and '+  "description": "Echoes. First read' in accepted.stderr
    assert agentsys("changed", "run", "go.py", "--input", '"hi"').stdout == "hi\n"


def test_one_tool_is_accepted_or_it_is_said_why_not(agentsys: Run) -> None:
    assert agentsys("", "mcp", "accept", "echoes", "--yes").returncode == 0
    for mode, tool, why in (
        ("", "ecko", "has no tool"),
        ("names", "twice", "two tools have this name"),
        ("renamed", "echo", "calls itself 'renamed'"),
    ):
        refused = agentsys(mode, "mcp", "accept", "echoes", tool, "--yes")
        assert refused.returncode == 2 and why in refused.stderr, refused.stderr
    told = agentsys("renamed", "run", "go.py", "--input", '"hi"')
    assert "`agentsys mcp accept echoes` shows" in told.stderr
    assert agentsys("renamed", "mcp", "accept", "echoes", "--yes").returncode == 0
    assert agentsys("renamed", "run", "go.py", "--input", '"hi"').stdout == "hi\n"
    assert agentsys("new", "mcp", "accept", "echoes", "--yes").returncode == 0
    assert agentsys("", "mcp", "accept", "echoes", "extra", "--yes").returncode == 0


def test_a_server_that_nobody_configured_is_no_server(agentsys: Run) -> None:
    wrong = agentsys("", "mcp", "accept", "echo")
    assert wrong.returncode == 2 and "AGS-0100" in wrong.stderr
