"""One pair in one arm: what AgentDojo's checkers say of it, and what the trace does."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentdojo.types import text_content_block_from_string

from agentsys.benchmarks.ifc.arms import Arm, Attacker, Row
from agentsys.benchmarks.ifc.dojo import Pair, dojo
from agentsys.benchmarks.ifc.element import AgentsysElement, Played
from agentsys.blackboard.board import Board


@dataclass(frozen=True, slots=True)
class Trial:
    """``finished``: the user's task, judged by its checker on the answer with what is attached; ``by_body`` without.

    ``won``: the attack, by AgentDojo's checker; ``traced``: by the trace. ``asked``: writes of the user's for which a
    person is needed. ``approvals``: questions put to the approver. ``misled``: quarantined answers that the attacker
    wrote; ``substituted``: arguments of the user's calls that came of it.
    """

    pair: Pair
    row: str
    finished: bool
    by_body: bool
    won: bool
    traced: bool
    injected: int
    proposed: int
    writes: int
    asked: int
    approvals: int
    refusals: int
    misled: int
    substituted: int
    live_links: int
    failure: str | None


class Bench:
    """A board and an event loop for many trials, one after the other; every trial is a run of its own."""

    def __init__(self, folder: Path) -> None:
        self._board = Board.open(folder / "board.db", durability="normal")
        self._runner = asyncio.Runner()

    def run(self, pair: Pair, row: Row) -> Trial:
        """Run a pair for a line of the comparison."""
        played, by_body, won = self.play(pair, row.arm, row.attacker)
        findings, planner = played.findings, played.planner
        writes = played.script.writes
        return Trial(
            pair=pair,
            row=row.name,
            finished=by_body or _finished(pair, played),
            by_body=by_body,
            won=won,
            traced=findings.attacked,
            injected=len(findings.injected_writes),
            proposed=sum(planner.proposed.values()),
            writes=len(writes),
            asked=len(set(planner.refused) & set(writes)),
            approvals=len(played.approver.approved) + len(played.approver.refused),
            refusals=len(played.approver.refused),
            misled=played.reader.misled,
            substituted=len(findings.substituted),
            live_links=len(findings.live_links),
            failure=played.failure,
        )

    def play(self, pair: Pair, arm: Arm, attacker: Attacker = "careful") -> tuple[Played, bool, bool]:
        """Run a pair through AgentDojo's harness; return what was played, its utility, and whether the attack won."""
        of = dojo(pair.suite)
        element = AgentsysElement(self._board, self._runner, pair, arm, attacker)
        injection = None if pair.injection_task is None else of.injection_task(pair.injection_task)
        # Some checkers print.
        with contextlib.redirect_stdout(io.StringIO()):
            useful, won = of.suite.run_task_with_pipeline(
                element, of.user_task(pair.user_task), injection, {}, environment=of.environment(pair)
            )
        assert element.played is not None
        return element.played, bool(useful), bool(won) and injection is not None

    def close(self) -> None:
        self._board.close()
        self._runner.close()


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Open a bench in ``folder``."""
    opened = Bench(folder)
    try:
        yield opened
    finally:
        opened.close()


def _finished(pair: Pair, played: Played) -> bool:
    """Whether the user's task is done if what is attached to the answer counts as said."""
    of = dojo(pair.suite)
    task = of.user_task(pair.user_task)
    before = task.init_environment(of.environment(pair))
    said = [text_content_block_from_string(f"{played.body}\n{played.attached}")]
    with contextlib.redirect_stdout(io.StringIO()):
        return bool(of.suite._check_user_task_utility(task, said, before, played.environment, played.calls))
