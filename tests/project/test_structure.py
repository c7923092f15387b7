"""The house rules hold: lengths, import circles, floors; and the checks can fail."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from agentsys.benchmarks import structure
from agentsys.benchmarks.harness import Options

ROOT = Path(__file__).resolve().parents[2]


def module(name: str, source: str) -> structure.Module:
    return structure.Module(name, Path(name), ast.parse(source), source.count("\n"))


def test_every_structure_bar_is_met():
    result = structure.main(Options())
    assert [bar.name for bar in result.bars if not bar.met] == []


def test_a_planted_circle_is_found():
    circle = structure.import_circle(
        [module("p.a", "from p import b"), module("p.b", "import p.c"), module("p.c", "from p.a import x")]
    )
    assert set(circle) == {"p.a", "p.b", "p.c"}


def test_imports_inside_functions_and_for_types_are_no_circle():
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.b\ndef f():\n    import p.b\n"
    assert structure.import_circle([module("p.a", lazy), module("p.b", "import p.a")]) == []


def test_floors_hold():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_planted_upward_import_is_caught(tmp_path):
    """The same contract, on a copy whose bottom floor imports the top one."""
    import shutil

    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(ROOT / "agentsys", copy / "agentsys", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    with (copy / "agentsys/blackboard/labels.py").open("a") as labels:
        labels.write("\nimport agentsys.serving.engine\n")
    lint = "from importlinter.cli import lint_imports_command as run; run()"
    script = f"import sys; sys.path.insert(0, {str(copy)!r}); {lint}"
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-logo", "--no-cache"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "agentsys.blackboard" in done.stdout


@pytest.mark.parametrize("bare", ["import blackboard", "from serving import engine", "from . import labels"])
def test_bare_and_relative_imports_are_refused(bare, tmp_path):
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run(
        [
            ruff,
            "check",
            "--config",
            ROOT / "pyproject.toml",
            "--select",
            "TID",
            "--stdin-filename",
            "agentsys/x.py",
            "-",
        ],
        input=bare + "\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout
