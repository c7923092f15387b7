"""Commands of ``agentsys`` in the test's own process, which spares importing everything again for each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentsys.cli.app import app
from agentsys.cli.output import out


def command_here(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with no settings of the caller's but those given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name in [name for name in os.environ if name.startswith("AGENTSYS_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(out, "_width", 200)  # the terminal's columns are looked up once, by whichever test is first
        done = CliRunner().invoke(app, arguments, prog_name="agentsys", catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
