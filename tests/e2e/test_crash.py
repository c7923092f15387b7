"""``kill -9`` at random moments of a run, then resume: the same answer, nothing lost, nothing done twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentsys import topics
from agentsys.blackboard.board import Board

PROGRAM = Path(__file__).with_name("crash_program.py")
JOURNAL_OFF = "--journal-off"


@dataclass(frozen=True)
class Trace:
    """Everything that a run left behind and that a crash must not change."""

    answer: Any
    writes: Counter[tuple[str, str, int]]
    effects: Counter[tuple[str, str]]
    ledger: Counter[str]

    @staticmethod
    def of(folder: Path, answer: str) -> Trace:
        with Board.open_read_only(folder / "board.db") as board:
            board.verify()
            commits = board.log()
            effects = Counter((effect.id, effect.state.value) for effect in board.effects())
        # Leases tell who executed it, and so differ.
        written = [entry for commit in commits for entry in commit.writes if entry.topic != topics.LEASES]
        writes = Counter((entry.topic, entry.key, entry.version) for entry in written)
        return Trace(json.loads(answer), writes, effects, Counter((folder / "ledger").read_text().splitlines()))

    def faults_against(self, expected: Trace) -> list[str]:
        """Return what differs from the trace of a run that nothing interrupted."""
        faults = [] if self.answer == expected.answer else [f"another answer: {self.answer}"]
        for part in ("writes", "effects", "ledger"):
            mine, wanted = getattr(self, part), getattr(expected, part)
            faults += [f"{part} lost: {item}" for item in (wanted - mine)]
            faults += [f"{part} doubled or new: {item}" for item in (mine - wanted)]
        return faults


def launch(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the program and return once it holds the board."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(PROGRAM), str(folder / "board.db"), str(folder / "ledger"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n", process.communicate()[1]
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the program's end and return the answer it printed."""
    assert process.stdout is not None
    assert process.stderr is not None
    # Not communicate(): it would miss what was read ahead together with the first line.
    with process, process.stdout as stdout, process.stderr as stderr:
        output, errors = stdout.read(), stderr.read()
    assert process.returncode == 0, errors
    return output


def complete(folder: Path, *options: str) -> Trace:
    return Trace.of(folder, finish(launch(folder, *options)))


def kill_after(folder: Path, delay: float, *options: str) -> bool:
    """Kill the program ``delay`` seconds after it opened the board; return whether it was still running."""
    process = launch(folder, *options)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode < 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, float]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = launch(folder)
    opened = time.monotonic()
    answer = finish(process)
    return Trace.of(folder, answer), time.monotonic() - opened


@pytest.mark.parametrize("least", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_change_nothing(tmp_path: Path, uninterrupted: tuple[Trace, float], least: int) -> None:
    expected, duration = uninterrupted
    chance = random.Random(20261123)
    kills = runs = 0
    while kills < least:
        folder = tmp_path / f"run{runs}"
        in_this_run = 0
        while in_this_run < 5 and kill_after(folder, chance.uniform(0.0, 0.5 * duration)):
            in_this_run += 1
        kills, runs = kills + in_this_run, runs + 1
        assert complete(folder).faults_against(expected) == [], f"after {in_this_run} kills of run {runs}"


def kill_in_the_middle(folder: Path, expected: Trace, *options: str) -> None:
    """Kill the program once half of its tool calls are in the ledger."""
    process = launch(folder, *options)
    ledger = folder / "ledger"
    half = len(expected.ledger) / 2
    while process.poll() is None and not (ledger.exists() and len(ledger.read_text().splitlines()) >= half):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode < 0, "the program ended before it could be killed"


def test_a_runtime_that_forgets_its_journal_is_caught(tmp_path: Path, uninterrupted: tuple[Trace, float]) -> None:
    expected, _ = uninterrupted
    folder = tmp_path / "run"
    kill_in_the_middle(folder, expected, JOURNAL_OFF)
    try:
        faults = complete(folder, JOURNAL_OFF).faults_against(expected)
    except AssertionError as failed_to_resume:
        faults = [str(failed_to_resume)]
    assert faults
