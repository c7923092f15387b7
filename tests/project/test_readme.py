"""The README's first screen is true: its Python runs and prints what it says, its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.mark.model
def test_the_python_of_the_readme_runs_and_prints_its_output(tmp_path):
    program, printed = re.search(r"```python\n(.*?)```\n```\n(.*?)```", README, re.DOTALL).groups()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    sentence, label = done.stdout.strip().splitlines()
    # The sentence is the model's: another processor rounds differently and may word it differently.
    assert sentence
    assert label == printed.strip().splitlines()[-1]


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
