"""Runs that four workers began and one, three or seven end, after ``kill -9``: the same board, no doubled effect."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.runs import list_runs

# The databases of the board's own tests.
from tests.blackboard.conftest import location, postgres_board, postgres_url  # noqa: F401
from tests.e2e.cluster import leases, taken_from

PROGRAM = Path(__file__).with_name("worker_program.py")
Launch = Callable[..., subprocess.Popen[str]]
EFFECTS = 4 * 12 + 4 * 6
"""Effects of all runs together."""


@dataclass(frozen=True)
class Outcome:
    """What the runs left behind, whoever executed them: values, entries but for leases, effects, and the services."""

    values: dict[str, Any]
    entries: Counter[tuple[str, str, int, str]]
    effects: Counter[tuple[str, str]]
    ledger: Counter[str]

    @staticmethod
    def of(board_at: str, folder: Path) -> Outcome:
        with Board.open_read_only(board_at) as board:
            board.verify()
            values = {record.run: [record.status, record.value] for record in list_runs(board)}
            entries = Counter(
                (entry.topic, entry.key, entry.version, _lasting(entry.topic, entry.value))
                for commit in board.log()
                for entry in commit.writes
                if entry.topic != topics.LEASES
            )
            effects = Counter((effect.id, effect.state.value) for effect in board.effects())
        lines = [line for path in folder.glob("*.ledger") for line in path.read_text().splitlines()]
        return Outcome(values, entries, effects, Counter(lines))

    def faults_against(self, expected: Outcome) -> list[str]:
        faults = [] if self.values == expected.values else [f"other values: {self.values}"]
        for part in ("entries", "effects", "ledger"):
            mine, wanted = getattr(self, part), getattr(expected, part)
            faults += [f"{part} lost: {item}" for item in wanted - mine]
            faults += [f"{part} doubled or new: {item}" for item in mine - wanted]
        return faults


def _lasting(topic: str, value: Any) -> str:
    """Return what of a value does not hang on the time or on chance."""
    if topic == topics.RUNS:
        return json.dumps([value["status"], value["value"]])
    if topic.startswith(topics.RESERVED_PREFIX):
        return str(value.get("kind") or value.get("status") or value.get("outcome")) if isinstance(value, dict) else ""
    return json.dumps(value)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with ExitStack() as stack:

        def start(board_at: str, folder: Path, *options: str) -> subprocess.Popen[str]:
            folder.mkdir(exist_ok=True)
            command = [sys.executable, str(PROGRAM), board_at, str(folder), *options]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        yield start


def go(folder: Path, *processes: subprocess.Popen[str]) -> None:
    """Let workers begin once all of them have opened the board."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n", process.communicate()[1]
    (folder / "go").touch()


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("uninterrupted")
    board_at = str(folder / "board.db")
    (folder / "go").touch()
    for options in ("--enqueue", "--drain"):
        command = [sys.executable, str(PROGRAM), board_at, str(folder), options]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    return Outcome.of(board_at, folder)


def wait_for_effects(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(len(path.read_text().splitlines()) for path in folder.glob("*.ledger")) < count:
        assert time.monotonic() < deadline, "the workers do nothing"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("location", "workers"),
    [
        ("sqlite", 7),
        ("postgres", 3),
        *(pytest.param("sqlite", workers, marks=pytest.mark.slow) for workers in (1, 3)),
        *(pytest.param("postgres", workers, marks=pytest.mark.slow) for workers in (1, 7)),
    ],
    indirect=["location"],
)
def test_what_four_began_others_end(
    location: str,  # noqa: F811
    tmp_path: Path,
    launch: Launch,
    uninterrupted: Outcome,
    workers: int,
) -> None:
    folder = tmp_path / "services"
    finish(launch(location, folder, "--enqueue"))
    four = [launch(location, folder) for _ in range(4)]
    go(folder, *four)
    wait_for_effects(folder, EFFECTS // 3)
    for process in four:
        process.kill()
    for process in four:
        process.communicate()
    with Board.open_read_only(location) as board:
        assert any(record.status == "running" for record in list_runs(board)), "they were done before they were killed"
    finish(*[launch(location, folder, "--drain") for _ in range(workers)])
    assert Outcome.of(location, folder).faults_against(uninterrupted) == []


def test_a_lost_worker_frees_its_own_runs_and_no_others(
    location: str,  # noqa: F811
    tmp_path: Path,
    launch: Launch,
    uninterrupted: Outcome,
) -> None:
    folder = tmp_path / "services"
    finish(launch(location, folder, "--enqueue"))
    first, *others = [launch(location, folder, *options) for options in ([], ["--drain"], ["--drain"], ["--drain"])]
    go(folder, first, *others)
    wait_for_effects(folder, EFFECTS // 3)
    first.kill()
    first.communicate()
    finish(*others)
    assert Outcome.of(location, folder).faults_against(uninterrupted) == []
    assert len(taken_from(location)) <= 1, "runs of one worker alone went to others"


def test_a_frozen_worker_that_wakes_commits_nothing_more(
    postgres_board: str,  # noqa: F811
    tmp_path: Path,
    launch: Launch,
    uninterrupted: Outcome,
) -> None:
    """Only PostgreSQL knows a frozen process for dead: its session ends by the database's clock."""
    folder = tmp_path / "services"
    finish(launch(postgres_board, folder, "--enqueue"))
    frozen = launch(postgres_board, folder)
    go(folder, frozen)
    wait_for_effects(folder, 4)
    frozen.send_signal(signal.SIGSTOP)
    held = {run for run, (_, holder) in leases(postgres_board).items() if holder}
    with Board.open_read_only(postgres_board) as board:
        begun = {effect.id for effect in board.effects(state=EffectState.STARTED)}
    finish(launch(postgres_board, folder, "--drain"))
    before = Outcome.of(postgres_board, folder)
    frozen.send_signal(signal.SIGCONT)
    time.sleep(2)
    frozen.kill()
    frozen.communicate()
    after = Outcome.of(postgres_board, folder)
    assert held
    # A call that it had begun as it froze goes out once it wakes: nothing here can hold that back.
    late = after.ledger - before.ledger
    assert {json.loads(line)[1] for line in late} <= begun
    assert replace(after, ledger=after.ledger - late) == before
    assert {state for _, state in after.effects} == {EffectState.SUCCEEDED.value}
    assert after.values == uninterrupted.values


def test_workers_that_know_no_leases_are_caught(tmp_path: Path, launch: Launch) -> None:
    board_at, folder = str(tmp_path / "board.db"), tmp_path / "services"
    finish(launch(board_at, folder, "--enqueue"))
    careless = [launch(board_at, folder, "--drain", "--no-leases") for _ in range(2)]
    go(folder, *careless)
    for process in careless:
        process.communicate(timeout=120)
    assert taken_from(board_at), "both take every run, and none was taken away"
