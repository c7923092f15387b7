"""A memoised call of several processes is made once, and again where the process that makes it is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(__file__).with_name("memo_program.py")


def launch(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(folder / "board.db"), str(folder / "ledger"), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def answer(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.strip()


def calls(folder: Path, *, at_least: int) -> list[str]:
    """Return the processes that began a call, once there are so many."""
    ledger, deadline = folder / "ledger", time.monotonic() + 60
    while time.monotonic() < deadline:
        found = ledger.read_text().splitlines() if ledger.exists() else []
        if len(found) >= at_least:
            return found
        time.sleep(0.01)
    raise AssertionError("no call was begun")


def test_processes_that_ask_the_same_at_once_call_once(tmp_path: Path) -> None:
    asking = [launch(tmp_path, 1.0) for _ in range(3)]
    assert [answer(process) for process in asking] == ["42"] * 3
    assert len(calls(tmp_path, at_least=1)) == 1


def test_another_process_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    leading = launch(tmp_path, 60.0)
    calls(tmp_path, at_least=1)
    waiting = launch(tmp_path, 0.0)
    leading.kill()
    leading.communicate()
    assert answer(waiting) == "42"
    assert calls(tmp_path, at_least=2)[1] == str(waiting.pid)
