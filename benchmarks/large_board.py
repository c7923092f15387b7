"""A large board: the recorded real runs, committed many times over under new names, and notes beside them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import agentsys
from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectState
from agentsys.blackboard.entries import Entry, EntryVersionRef
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.blackboard.transactions import Transaction
from agentsys.protocols.http.recorded import recorded_board

RECORDED: Final = Path(agentsys.__path__[0]) / "ui" / "recorded" / "demo.db"
"""The board that comes with the console; a path, as no benchmark imports the console."""

SPACING_SECONDS: Final = 60.0
"""From the start of one run to that of the next; the last one started just now."""

NOTES_A_COMMIT: Final = 20
RUNS_AT_ONCE: Final = 50
_WORDS: Final = ("harbour", "ledger", "orchard", "signal", "copper", "meadow", "lantern", "quarry", "saddle", "thimble")


def build_board(path: Path, *, runs: int, entries: int, seed: int = 0) -> None:
    """Write a board with so many runs and, in all, so many entries; one seed gives the same one, but for its times."""
    source = random.Random(seed)
    templates = _recorded_runs()
    began = time.time() - SPACING_SECONDS * runs
    with Board.open(path, durability="normal") as board:
        copies = [
            RunCopy.of(
                templates[number % len(templates)], f"{source.getrandbits(48):012x}", began + SPACING_SECONDS * number
            )
            for number in range(runs)
        ]
        for first in range(0, runs, RUNS_AT_ONCE):
            _commit_runs(board, copies[first : first + RUNS_AT_ONCE])
        missing = entries - sum(len(_addresses(copy.commits)) for copy in copies)
        _commit_all(board, _notes(board, source, missing))


@dataclass(frozen=True, slots=True)
class RunCopy:
    """A recorded run under a new name and a later time; ``names`` maps what was written to what is written now."""

    run: str
    commits: list[Commit]
    names: dict[str, str]
    delay: float

    @staticmethod
    def of(commits: list[Commit], run: str, started: float) -> RunCopy:
        names = {str(commits[0].run): run}
        for effect in (effect for commit in commits for effect in commit.effects):
            names[effect.id] = f"{effect.id[:20]}-{run}"
        return RunCopy(run, commits, names, started - commits[0].at)

    def transaction(self, board: Board, commit: Commit) -> Transaction:
        """Return a transaction that writes what ``commit`` wrote."""
        # A snapshot: what was read is not read again, and nothing else writes meanwhile.
        transaction = board.begin(commit.principal, run=self.run, isolation="snapshot")
        for entry in commit.writes:
            self._put(transaction, entry)
        for effect in commit.effects:
            self._change(transaction, effect)
        return transaction

    def _put(self, transaction: Transaction, entry: Entry) -> None:
        value: Any = self._renamed(entry.value)
        if entry.topic == topics.RUNS:
            value["started"] += self.delay
            value["finished"] = None if value["finished"] is None else value["finished"] + self.delay
        sources = [
            EntryVersionRef(self._renamed(ref.topic), self._renamed(ref.key), ref.version) for ref in entry.derived_from
        ]
        topic, key = self._renamed(entry.topic), self._renamed(entry.key)
        transaction.put(
            topic, key, value, type=entry.type, label=entry.label, derived_from=sources, endorsed=entry.endorsement
        )

    def _change(self, transaction: Transaction, effect: Effect) -> None:
        name = self.names[effect.id]
        if effect.state is EffectState.INTENDED:
            arguments = self._renamed(effect.intent.arguments)
            transaction.plan_effect(replace(effect.intent, id=name, run=self.run, arguments=arguments))
        elif effect.state is EffectState.STARTED:
            transaction.start_effect(name)
        else:
            outcome = cast("Any", str(effect.state))
            transaction.finish_effect(name, outcome, self._renamed(effect.result), effect.result_label)

    def _renamed(self, value: Any) -> Any:
        text = json.dumps(value)
        for old, new in self.names.items():
            text = text.replace(old, new)
        return json.loads(text)


def _recorded_runs() -> list[list[Commit]]:
    with recorded_board(RECORDED) as recorded:
        commits = recorded.log()
    names = dict.fromkeys(commit.run for commit in commits if commit.run)
    return [[commit for commit in commits if commit.run == name] for name in names]


def _addresses(commits: list[Commit]) -> set[tuple[str, str]]:
    return {entry.address for commit in commits for entry in commit.writes}


def _notes(board: Board, source: random.Random, count: int) -> Iterator[Transaction]:
    label = Label.trusted(OWNER, Readers.of(OWNER))
    for first in range(0, count, NOTES_A_COMMIT):
        transaction = board.begin(OWNER, isolation="snapshot")
        for number in range(first, min(first + NOTES_A_COMMIT, count)):
            note = {"text": " ".join(source.choices(_WORDS, k=6)), "amount": source.randrange(1000)}
            topic = f"notes/{source.choice(_WORDS)}"
            transaction.put(topic, f"{number:05}", note, type="note", label=label)
        yield transaction


def _commit_runs(board: Board, copies: list[RunCopy]) -> None:
    """Commit runs beside each other; a run's commits build on those before, so each waits for its predecessor."""
    for position in range(max(len(copy.commits) for copy in copies)):
        going_on = [copy for copy in copies if position < len(copy.commits)]
        _commit_all(board, (copy.transaction(board, copy.commits[position]) for copy in going_on))


def _commit_all(board: Board, transactions: Iterator[Transaction]) -> None:
    """Commit in order; one physical write takes several."""
    waiting: list[Future[Commit]] = [board.submit(transaction) for transaction in transactions]
    for future in waiting:
        future.result()
