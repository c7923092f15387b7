"""Killing the writing process at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate

CYCLES = 24


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("kill_nursery.py")
    command = [sys.executable, str(script), str(tmp_path / "board.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def run_and_kill(nursery: subprocess.Popen[str], delay: float) -> dict[str, int]:
    """Let one process commit, kill it, and return the last number that was acknowledged to each of its threads."""
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write("go\n")
    nursery.stdin.flush()
    acknowledged: dict[str, int] = {}
    killed = False
    while (line := nursery.stdout.readline().split()) != ["dead"]:
        assert line, "the nursery ended"
        if line[0] == "pid":
            child = int(line[1])
        else:
            acknowledged[line[1]] = int(line[2])
        # The kill waits for a first acknowledgement, so that every cycle has something to lose.
        if line[0] == "ack" and not killed:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            killed = True
    return acknowledged


def test_nothing_acknowledged_is_lost_and_nothing_is_half_done(tmp_path: Path, nursery: subprocess.Popen[str]) -> None:
    pauses = random.Random(7)
    acknowledged: dict[str, int] = {}
    for cycle in range(CYCLES):
        acknowledged |= run_and_kill(nursery, pauses.uniform(0, 0.15))
        with Board.open(tmp_path / "board.db") as board:
            assert board.verify() == board.head
            left = {entry.key: entry.value for entry in board.query(Predicate(topic="left"))}
            right = {entry.key: entry.value for entry in board.query(Predicate(topic="right"))}
            every = [entry.key for entry in board.query(Predicate(topic="all"))]
            assert board.epoch == 2 * (cycle + 1)
        assert left == right
        assert every == [f"{name}/{number:06d}" for name in sorted(left) for number in range(1, left[name] + 1)]
        assert board_holds(left, acknowledged), f"lost after cycle {cycle}: {acknowledged} against {left}"
    assert sum(acknowledged.values()) > CYCLES


def board_holds(stored: dict[str, int], acknowledged: dict[str, int]) -> bool:
    return all(stored.get(name, 0) >= number for name, number in acknowledged.items())


def test_the_check_would_notice_a_loss() -> None:
    assert not board_holds({"a": 4}, {"a": 5})
    assert not board_holds({}, {"a": 1})
