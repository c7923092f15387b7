"""`agentsys run` calls the tools of the settings' MCP servers, and `agentsys mcp` shows and accepts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("foreign_server.py")
WORKFLOW = """
from agentsys import Workflow

async def go(context, text):
    return (await context.call("echoes__echo", text=text)).value

workflow = Workflow("go", go)
"""


def agentsys(folder: Path, mode: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "calls", "--mode", mode]
    settings = f'[mcp.servers.echoes]\ncommand = {json.dumps(command)}\naudience = ["user:owner"]\n'
    (folder / "agentsys.toml").write_text(settings + '[mcp.servers.away]\ncommand = ["/nowhere/at/all"]\n')
    (folder / "go.py").write_text(WORKFLOW)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    return subprocess.run(
        [sys.executable, "-c", "from agentsys.cli.app import main; main()", *words],
        cwd=folder,
        env=kept | {"AGENTSYS_BOARD__PATH": str(folder / "board.db")},
        capture_output=True,
        text=True,
        timeout=120,
    )


def states(folder: Path, mode: str) -> dict[str, str]:
    listed = agentsys(folder, mode, "mcp", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    return {row["tool"] or row["server"]: row["state"] for row in json.loads(listed.stdout)}


def test_a_change_is_listed_refused_shown_and_accepted(tmp_path: Path) -> None:
    assert states(tmp_path, "") == {"away": "unavailable", "echo": "not used yet"}
    first = agentsys(tmp_path, "", "run", "go.py", "--input", '"hi"')
    assert first.stdout == "hi\n", first.stderr
    assert states(tmp_path, "") == {"away": "unavailable", "echo": "accepted"}
    assert states(tmp_path, "changed")["echo"] == "changed"
    refused = agentsys(tmp_path, "changed", "run", "go.py", "--input", '"hi"')
    assert refused.returncode == 1 and "AGS-0746" in refused.stderr
    # Nobody who is asked and says nothing has accepted anything.
    assert agentsys(tmp_path, "changed", "mcp", "accept", "echoes").returncode == 1
    assert states(tmp_path, "changed")["echo"] == "changed"
    accepted = agentsys(tmp_path, "changed", "mcp", "accept", "echoes", "--yes")
    assert accepted.returncode == 0 and '+  "description": "Echoes. First read' in accepted.stderr
    assert agentsys(tmp_path, "changed", "run", "go.py", "--input", '"hi"').stdout == "hi\n"


def test_one_tool_is_accepted_or_it_is_said_why_not(tmp_path: Path) -> None:
    assert agentsys(tmp_path, "", "mcp", "accept", "echoes", "--yes").returncode == 0
    for mode, tool, why in (
        ("", "ecko", "has no tool"),
        ("names", "twice", "two tools have this name"),
        ("renamed", "echo", "calls itself 'renamed'"),
    ):
        refused = agentsys(tmp_path, mode, "mcp", "accept", "echoes", tool, "--yes")
        assert refused.returncode == 2 and why in refused.stderr, refused.stderr
    told = agentsys(tmp_path, "renamed", "run", "go.py", "--input", '"hi"')
    assert "`agentsys mcp accept echoes` shows" in told.stderr
    assert agentsys(tmp_path, "renamed", "mcp", "accept", "echoes", "--yes").returncode == 0
    assert agentsys(tmp_path, "renamed", "run", "go.py", "--input", '"hi"').stdout == "hi\n"
    assert agentsys(tmp_path, "new", "mcp", "accept", "echoes", "--yes").returncode == 0
    assert agentsys(tmp_path, "", "mcp", "accept", "echoes", "extra", "--yes").returncode == 0


def test_a_server_that_nobody_configured_is_no_server(tmp_path: Path) -> None:
    wrong = agentsys(tmp_path, "", "mcp", "accept", "echo")
    assert wrong.returncode == 2 and "AGS-0100" in wrong.stderr
