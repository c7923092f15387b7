"""Every code block of the README and of docs/ is true.

The Python blocks of a page are one program, run in an empty folder in the order of the page; each runs in its own file
where the page's info string says ``python title="name.py"``. Command lines name commands and options that exist; TOML
blocks are valid settings, or with ``title="policy.toml"`` a policy that passes its own tests. Blocks in ``text`` or
without a language are output.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from agentsys.cli.app import app
from agentsys.policy.documents import read_policy
from agentsys.policy.situations import fault_of as fault_of_trial
from agentsys.policy.situations import outcome_of_trial
from agentsys.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
# The reference of the commands is written from the commands themselves.
PAGES = sorted([ROOT / "README.md", *{*(ROOT / "docs").glob("*.md")} - {ROOT / "docs/cli.md"}])
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KNOWN = {"", "text", "python", "bash", "console", "toml", "json"}


@dataclass(frozen=True)
class Block:
    language: str
    info: str
    text: str


def blocks(page):
    return [Block(*found.groups()) for found in FENCE.finditer(page.read_text(encoding="utf-8"))]


def of(language):
    return [pytest.param(page, id=page.name) for page in PAGES if any(b.language == language for b in blocks(page))]


def is_policy(block):
    return block.language == "toml" and 'title="policy.toml"' in block.info


def commands(text):
    """Return the agentsys command lines of a block, with continued lines joined and comments dropped."""
    joined = text.replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines if re.match(r"(\w+=\S+ )*agentsys(?=\s)", line)]
    return [words[next(i for i, word in enumerate(words) if word == "agentsys") + 1 :] for words in split]


def fault_of(words):
    """Return what is wrong with a command line, or None."""
    command = typer.main.get_command(app)
    path = "agentsys"
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        # In the README's overview `pull|list` stands for both.
        for name in words[0].split("|"):
            if name not in command.commands:
                return f"{path} has no command {name}"
        command, path, words = command.commands[words[0].split("|")[0]], f"{path} {words[0]}", words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help"}
    wrong = [word for word in words if word.startswith("--") and word.partition("=")[0].strip("[]") not in known]
    return f"{path} has no option {wrong[0]}" if wrong else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    assert {block.language for block in blocks(page)} <= KNOWN


@pytest.mark.model
@pytest.mark.parametrize("page", of("python"))
def test_the_python_runs(page, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    environment["AGENTSYS_BOARD__PATH"] = str(tmp_path / "board.db")
    program = []
    for block in blocks(page):
        title = re.search(r'title="([\w.]+)"', block.info)
        if title and (block.language == "python" or is_policy(block)):
            (tmp_path / title[1]).write_text(block.text)
        elif block.language == "python":
            program.append(block.text)
    (tmp_path / "page.py").write_text("\n".join(program))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", of("bash") + of("console") + of(""))
def test_the_commands_exist(page):
    lines = [
        words for block in blocks(page) if block.language in ("bash", "console", "") for words in commands(block.text)
    ]
    assert [fault for fault in map(fault_of, lines) if fault] == []


@pytest.mark.parametrize("page", of("toml"))
def test_the_settings_are_valid(page, tmp_path):
    for block in blocks(page):
        if is_policy(block):
            policy = read_policy(block.text)
            assert [
                trial.name for trial in policy.tests if fault_of_trial(trial, outcome_of_trial(policy, trial))
            ] == []
        elif block.language == "toml":
            tomllib.loads(block.text)
            (tmp_path / "agentsys.toml").write_text(block.text)
            load_settings(directory=tmp_path, environment={})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("agentsys ask --lake DIR q", None),
        ("agentsys models pull|list", None),
        ("agentsys aks q", "agentsys has no command aks"),
        ("agentsys ask --lak DIR q", "agentsys ask has no option --lak"),
        ("agentsys models pull|lits", "agentsys has no command lits"),
    ],
)
def test_a_planted_wrong_command_is_found(line, fault):
    found = fault_of(commands(line)[0])
    assert found == (fault and fault.replace("agentsys has no command lits", "agentsys models has no command lits"))
