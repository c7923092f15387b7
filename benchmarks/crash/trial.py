"""One trial: processes work on a board while the one that leads, or another, is killed again and again."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from agentsys.benchmarks.boards import board_location
from agentsys.benchmarks.crash.client import Task, recover, work
from agentsys.benchmarks.crash.faults import find_faults
from agentsys.benchmarks.crash.world import World, tools
from agentsys.benchmarks.postgres_server import PostgresServer
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectState
from agentsys.blackboard.postgres.address import is_postgres
from agentsys.tools import Tool

PROCESSES: Final = 3
LEADER: Final = "the process that led"
OTHER: Final = "another process"
SERVER: Final = "the database server"
"""What is killed."""
CLIENT: Final = "agentsys.benchmarks.crash.client"
LONGEST_PAUSE: Final = 0.12
"""Seconds between a new process's first acknowledgement and the next kill, at most."""

SHORT_LEASE: Final = 1.0
"""Seconds of a lease on a server of our own, so that a leader's death costs no more."""
LONGEST_LEASE: Final = 60.0
"""Seconds after which a killed process certainly counts as dead."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one trial. ``effects`` counts their states at the end."""

    kills: int
    leaders: int
    servers: int
    commits: int
    effects: Counter[str]
    faults: list[str]
    seconds: float
    recoveries: dict[str, list[float]]
    """Seconds from a kill until all that survived it have committed again, by what was killed."""


def run_trial(
    kills: int, seed: int, fault: str | None = None, server: str | None = None, killable: PostgresServer | None = None
) -> Trial:
    """Kill ``kills`` times one process of a new board, then all at once; take up what they left and look for faults.

    A ``killable`` server, on which the board then is, is killed every third time in place of a process.
    """
    with tempfile.TemporaryDirectory(prefix="agentsys-crash-") as name:
        folder = Path(name)
        began = time.monotonic()
        team = _Team(folder, fault, server, killable)
        team.kill_some(kills, random.Random(seed))
        team.kill_all()
        world = World(folder / "world")
        with Board.open(team.location) as board:
            asyncio.run(_take_up(board, team.location, tools(world)))
            faults = find_faults(board, list(_lines(folder)), world.done())
            states = Counter(effect.state.value for effect in board.effects())
            head = board.head
        world.close()
        leaders, servers = len(team.recoveries[LEADER]), len(team.recoveries[SERVER])
        seconds = time.monotonic() - began
        return Trial(kills + PROCESSES, leaders, servers, head, states, faults, seconds, team.recoveries)


async def _take_up(board: Board, location: str, known: Mapping[EffectClass, Tool]) -> None:
    """Recover all effects, those of processes too whose leases have yet to run out before they count as dead."""
    deadline = time.monotonic() + LONGEST_LEASE
    if is_postgres(location):
        # Until then, what the dead had submitted may be committed.
        await asyncio.sleep(SHORT_LEASE * 3)
    await recover(board, known)
    while board.effects(state=EffectState.STARTED) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        await recover(board, known)


class _Team:
    """The processes of a trial; a killed one is replaced at once."""

    def __init__(self, folder: Path, fault: str | None, server: str | None, killable: PostgresServer | None) -> None:
        self.location = board_location(folder, server if killable is None else f"{killable.url}&lease={SHORT_LEASE}")
        self._server = killable
        self._folder = folder
        self._fault = fault
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([CLIENT])
        self._started = 0
        self.recoveries: dict[str, list[float]] = {LEADER: [], OTHER: [], SERVER: []}
        self._running: list[tuple[BaseProcess, Task]] = []
        for _ in range(PROCESSES):
            self._start()

    def kill_some(self, kills: int, choices: random.Random) -> None:
        """Kill one process after another, or the server, and time how long the others stand still."""
        for kill in range(kills):
            self._wait_for_work()
            time.sleep(choices.uniform(0, LONGEST_PAUSE))
            if self._server is not None and kill % 3 == 2:
                lines, began = self._lines(), time.monotonic()
                self._server.kill()
                self._server.start()
                self._wait_for_more(lines)
                self.recoveries[SERVER].append(time.monotonic() - began)
            else:
                self._kill_process(choices)
        self._wait_for_work()

    def _kill_process(self, choices: random.Random) -> None:
        leader = self._leader()
        # Every second time the leader, if it is known: one that has just died is still written down.
        place = next((i for i, (process, _) in enumerate(self._running) if process.pid == leader), None)
        if place is None or choices.random() < 0.5:
            place = choices.randrange(len(self._running))
        process, _ = self._running.pop(place)
        lines, began = self._lines(), time.monotonic()
        _kill(process)
        self._start()
        self._wait_for_more(lines)
        self.recoveries[LEADER if process.pid == leader else OTHER].append(time.monotonic() - began)

    def kill_all(self) -> None:
        for process, _ in self._running:
            process.kill()
        for process, _ in self._running:
            process.join()

    def _start(self) -> None:
        self._started += 1
        task = Task(self.location, self._folder, self._started, self._fault)
        process = self._context.Process(target=work, args=(task,))
        process.start()
        self._running.append((process, task))

    def _lines(self) -> dict[Path, int]:
        """Return how much each process has written down as acknowledged, in bytes."""
        return {task.record: task.record.stat().st_size for _, task in self._running}

    def _wait_for_more(self, before: Mapping[Path, int]) -> None:
        deadline = time.monotonic() + LONGEST_LEASE
        while any(record.stat().st_size <= size for record, size in before.items()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"a process that was not killed has committed nothing for {LONGEST_LEASE:.0f} s")
            time.sleep(0.002)

    def _wait_for_work(self) -> None:
        """Wait until each process has something to lose."""
        while not all(task.record.exists() and task.record.stat().st_size for _, task in self._running):
            for process, task in self._running:
                if process.exitcode is not None:
                    raise RuntimeError(f"process {task.process} ended by itself with {process.exitcode}")
            time.sleep(0.005)

    def _leader(self) -> int | None:
        """Return the process that leads, as far as it is written down."""
        if is_postgres(self.location):
            epoch = _leading_epoch(self.location)
            return next((process.pid for process, task in self._running if epoch and task.epoch() == epoch), None)
        try:
            pid: int = json.loads(Path(self.location + ".lock").read_text(encoding="utf-8"))["pid"]
        except (OSError, ValueError):
            return None
        return pid


def _leading_epoch(location: str) -> int | None:
    from agentsys.blackboard.postgres.address import Address
    from agentsys.blackboard.postgres.connections import connect

    address = Address.parse(location)
    with connect(address, f"-c search_path={address.schema}") as connection:
        row = connection.execute("SELECT leader FROM board").fetchone()
    return row[0] if row else None


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _lines(folder: Path) -> Iterator[list[Any]]:
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
