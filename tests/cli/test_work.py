"""Workers on the command line. Each command is a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interrupts import hearing_interrupts

PROGRAM = """
from agentsys import Workflow


async def double(context, number):
    return number * 2


workflow = Workflow("double", double)
"""
MAIN = [sys.executable, "-c", "from agentsys.cli.app import main; main()"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "program.py").write_text(PROGRAM)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    environment = {**kept, "AGENTSYS_BOARD__PATH": str(folder / "board.db"), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [*MAIN, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hearing_interrupts,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    with start(folder, *arguments) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_what_is_enqueued_a_worker_executes(tmp_path: Path) -> None:
    code, output, _ = run(tmp_path, "run", "program.py", "--input", "21", "--enqueue", "--json")
    told = json.loads(output)
    assert (code, told["status"]) == (0, "running")
    code, _, errors = run(tmp_path, "work", "program.py", "--drain")
    assert code == 0, errors
    assert told["run"] in errors
    code, output, _ = run(tmp_path, "run", "program.py", "--resume", told["run"])
    assert (code, output.strip()) == (0, "42")
    assert run(tmp_path, "run", "program.py", "--enqueue", "--resume", "latest")[0] == 2


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_ends_when_told(tmp_path: Path, told: signal.Signals, code: int) -> None:
    _, output, _ = run(tmp_path, "run", "program.py", "--input", "1", "--enqueue")
    with start(tmp_path, "work", "program.py") as working:
        assert working.stderr is not None
        assert output.strip() in working.stderr.readline()
        working.send_signal(told)
        assert working.wait(60) == code


STUBBORN = """
import asyncio

from agentsys import Workflow, cancellation

cancellation.PATIENCE_SECONDS = 0.1


async def stubborn(context, _):
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass


workflow = Workflow("stubborn", stubborn)
"""


def test_a_worker_ends_without_a_run_that_does_not_let_itself_be_interrupted(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    _, output, _ = run(tmp_path, "run", "stubborn.py", "--input", "1", "--enqueue")
    with start(tmp_path, "work", "stubborn.py") as working:
        assert working.stderr is not None
        assert output.strip() in working.stderr.readline()
        working.send_signal(signal.SIGTERM)
        try:
            assert working.wait(60) == 1
        finally:
            working.kill()
        assert f"run {output.strip()} goes on although it was interrupted" in working.stderr.read()
