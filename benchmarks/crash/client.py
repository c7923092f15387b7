"""One process of the crash benchmark: it takes up what the dead left, then commits and acts until it is killed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentsys.benchmarks.crash import planted
from agentsys.benchmarks.crash.world import CLASSES, World, tools
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectIntent, EffectRefused, EffectState
from agentsys.blackboard.labels import Label
from agentsys.journal import submit
from agentsys.tool_calls import EffectInDoubt, carry_out
from agentsys.tools import Tool

WRITERS: Final = 3
"""Writers of one process, so that commits gather into groups."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one process does, and where; ``fault`` names a planted one of :mod:`agentsys.benchmarks.crash.planted`."""

    location: str
    folder: Path
    process: int
    fault: str | None = None

    @property
    def record(self) -> Path:
        return self.folder / f"{self.process}.jsonl"

    def epoch(self) -> int | None:
        """Return the number of the process's opening, once it has opened the board."""
        try:
            return int(self._epoch.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def tell_epoch(self, epoch: int) -> None:
        self._epoch.write_text(str(epoch), encoding="utf-8")

    @property
    def _epoch(self) -> Path:
        return self.folder / f"{self.process}.epoch"


def work(task: Task) -> None:
    """Work until killed. What was acknowledged is in ``task.record``, one line and one system call each."""
    planted.plant(task.fault)
    asyncio.run(_work(task))


async def _work(task: Task) -> None:
    world = World(task.folder / "world")
    record = os.open(task.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    board = Board.open(task.location)
    task.tell_epoch(board.epoch)
    known = tools(world)
    await recover(board, known)
    names = [f"p{task.process}-{number}" for number in range(WRITERS)]
    await asyncio.gather(*(_write(board, name, record, known, task.fault) for name in names))


async def recover(board: Board, known: Mapping[EffectClass, Tool]) -> None:
    """Bring every effect that a dead process had begun to an outcome, or to ``in_doubt``, as a resumed run does."""
    for effect in board.effects(state=EffectState.STARTED):
        if not board.begun_by_the_living(effect):
            # Another process may be at it, too: one of them is refused.
            with suppress(EffectInDoubt, EffectRefused):
                await carry_out(board, known[effect.intent.effect_class], effect, replaying=False)


async def _write(board: Board, name: str, record: int, known: Mapping[EffectClass, Tool], fault: str | None) -> None:
    """Write the same number at two addresses and one new entry, plan an effect with them, and carry it out."""
    number = 0
    while True:
        number += 1
        kind = CLASSES[number % len(CLASSES)]
        tx = board.begin(name)
        tx.put("left", name, number, type="count")
        tx.put("all", f"{name}/{number:06d}", "x" * 200, type="item")
        tx.put("right", name, number, type="count")
        identity = f"{name}/{number}"
        tx.plan_effect(EffectIntent(identity, None, "step", kind.value, kind, {}, Label.trusted(name)))
        commit = await submit(board, tx)
        _acknowledge(record, ["commit", commit.seq, commit.tx_id, number])
        if fault != planted.EARLY:
            effect = await carry_out(board, known[kind], commit.effects[-1], replaying=False)
            _acknowledge(record, ["effect", identity, effect.state.value])


def _acknowledge(record: int, line: list[Any]) -> None:
    os.write(record, json.dumps(line).encode() + b"\n")
