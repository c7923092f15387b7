"""``agentsys run`` offers the requests of a file's workflow to the foreign agents of the settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKFLOW = """
from agentsys import Workflow

async def ask(context, question):
    outcome = await context.ask("tides", question)
    return [response.status for response in outcome.responses]

workflow = Workflow("ask", ask)
"""


def test_a_run_asks_the_agents_of_the_settings(tmp_path: Path, peer: Any) -> None:
    (tmp_path / "ask.py").write_text(WORKFLOW)
    (tmp_path / "agentsys.toml").write_text(f'[a2a.agents.tides]\nurl = "{peer.url}"\nkinds = ["tides"]\n')
    command = [
        str(Path(sys.executable).with_name("agentsys")),
        "run",
        "ask.py",
        "--input",
        '"tide at my cove"',
        "--json",
    ]
    environment = os.environ | {"AGENTSYS_BOARD__PATH": str(tmp_path / "board.db")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    # It volunteered, and the owner's private question was not sent to it.
    assert json.loads(done.stdout)["value"] == ["crashed"], done.stderr
    assert peer.received() == []
