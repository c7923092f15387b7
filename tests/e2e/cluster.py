"""What tests of clusters share: commands that see one board, one ledger and the model by addresses; and a checker."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.predicates import Predicate
from agentsys.runs import list_runs
from agentsys.serving.client import ServingClient
from agentsys.serving.models import EngineOptions, engine_factory
from agentsys.serving.requests import GenerateRequest, Message

FLOW = Path(__file__).with_name("cluster_flow.py")
MAIN = [sys.executable, "-c", "from agentsys.cli.app import main; main()"]
SMALL = {"AGENTSYS_MODEL__KV_CACHE_MIB": "64", "AGENTSYS_MODEL__THREADS": "1"}
RUNS = 6
CALLS = 3
Answers = dict[tuple[int, int], str]


def flow_module() -> ModuleType:
    os.environ.setdefault("CLUSTER_LEDGER", os.devnull)
    from tests.e2e import cluster_flow

    return cluster_flow


def answers_of(url: str, api_key: str | None = None) -> Answers:
    """Return what the model says to every question, asked of one server, one at a time."""
    flow = flow_module()

    async def ask() -> Answers:
        client = ServingClient({"m": engine_factory(url, EngineOptions(api_key=api_key))}, "m")
        answers = {}
        for number in range(RUNS):
            for call in range(CALLS):
                prompt = [Message("user", flow.question(number, call))]
                answers[number, call] = (await client.generate(GenerateRequest(prompt, flow.SAMPLING))).text
        await client.close()
        return answers

    return asyncio.run(ask())


@dataclass
class Cluster:
    """What its commands see of it: a board, a ledger, and the model by one or more addresses.

    ``environment`` is what else they are told. The checker reads the board at ``read_at``, if it is another address.
    """

    board: str
    ledger: Path
    models: list[str]
    stack: ExitStack
    environment: Mapping[str, str] = field(default_factory=dict)
    read_at: str = ""

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
        first, *others = self.models
        environment = {
            **kept,
            "AGENTSYS_BOARD__URL": self.board,
            "AGENTSYS_MODEL__NAME": first,
            "AGENTSYS_MODEL__REPLICAS": ",".join(others),
            "CLUSTER_LEDGER": str(self.ledger),
            "NO_COLOR": "1",
            **self.environment,
        }
        process = self.stack.enter_context(
            subprocess.Popen(
                [*MAIN, *arguments],
                cwd=self.ledger.parent,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        self.stack.callback(process.kill)
        return process

    def enqueue(self) -> None:
        for number in range(RUNS):
            ended(self.command("run", str(FLOW), "--input", str(number), "--enqueue"))

    def work(self, *options: str) -> subprocess.Popen[str]:
        return self.command("work", str(FLOW), *(options or ["--drain"]))

    def lines(self) -> list[str]:
        return self.ledger.read_text().splitlines()

    def wait_for_lines(self, count: int) -> None:
        wait_until(lambda: len(self.lines()) >= count)

    def faults(self, expected: Answers) -> list[str]:
        """Return what is missing, wrong or doubled of all runs, after verifying the board."""
        with Board.open_read_only(self.read_at or self.board) as board:
            board.verify()
            records = list_runs(board)
            found = [f"run {one.input} is {one.status}: {one.failure}" for one in records if one.status != "done"]
            values = {one.input: one.value for one in records}
            if values != {number: [expected[number, call] for call in range(CALLS)] for number in range(RUNS)}:
                found.append(f"other answers of runs: {values}")
            notes = {entry.key: (entry.version, entry.value) for entry in board.query(Predicate(topic="answers"))}
            if notes != {f"{number}.{call}": (1, text) for (number, call), text in expected.items()}:
                found.append(f"other answers on the board: {notes}")
            for one in records:
                kinds = Counter(entry.value["kind"] for entry in board.query(Predicate(topic=topics.steps(one.run))))
                if kinds["generate"] != CALLS:
                    found.append(f"run {one.input} has {kinds['generate']} answers on record")
            effects = [effect.state for effect in board.effects()]
        if effects != [EffectState.SUCCEEDED] * (RUNS * CALLS):
            found.append(f"other effects: {effects}")
        noted = Counter(line.split()[0] for line in self.lines())
        if noted != Counter(f"{number}.{call}" for number, call in expected):
            found.append(f"the ledger has {noted}")
        return found


def leases(board_at: str) -> dict[str, tuple[int, int]]:
    """Return the version and the holder of each run's lease."""
    with Board.open_read_only(board_at) as board:
        found = board.query(Predicate(topic=topics.LEASES))
        values: dict[str, Any] = {entry.key: entry.value for entry in found}
        return {entry.key: (entry.version, values[entry.key]["held_by"]) for entry in found}


def taken_from(board_at: str) -> set[int]:
    """Return the openings of the board that another took a run from, which they had not given back."""
    with Board.open_read_only(board_at) as board:
        histories = [[*board.history(topics.LEASES, run)] for run in leases(board_at)]
    holders = [[entry.value["held_by"] for entry in sorted(history, key=lambda e: e.version)] for history in histories]
    return {held for each in holders for held, then in itertools.pairwise(each) if held and then not in (0, held)}


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
