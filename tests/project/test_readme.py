"""The README's first screen is true: hello world is short, commands and pages exist. `test_docs.py` runs its Python."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_hello_world_is_short():
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in program.splitlines() if line.strip()]) <= 6


def test_every_command_of_the_readme_exists():
    named = set(re.findall(r"^agentsys (\w+)", README, re.MULTILINE))
    assert {"ask", "run", "replay", "board", "models", "config", "doctor", "bench", "console"} <= named
    for command in named:
        done = subprocess.run(
            [sys.executable, "-c", "from agentsys.cli.app import main; main()", command, "--help"], capture_output=True
        )
        assert done.returncode == 0, command


def test_every_page_of_the_readme_exists():
    root = Path(__file__).resolve().parents[2]
    for page in re.findall(r"`((?:docs/[\w/.-]+|CONTRIBUTING\.md))`", README):
        assert (root / page).exists(), page
