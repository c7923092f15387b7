"""Many on one board: processes that all write it, and subscribers that only wait."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final

from agentsys.benchmarks.board_load import Figures, agents_on
from agentsys.benchmarks.harness import Bar, interleave, median
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Json
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.subscriptions import Subscription
from agentsys.blackboard.transactions import Transaction

PROCESSES: Final = 8
SUBSCRIBERS: Final = 1_000
PAIRS: Final = 7
SETTLING: Final = 1.0
"""Seconds that subscribers have to fall asleep."""


def fairness(figures: Figures, location: str, seconds: float) -> None:
    """Let eight processes write one board as fast as each can, and add how even their shares are."""
    with Board.open(location) as board, ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(write_together, location, number, seconds) for number in range(PROCESSES)]
        while len(board.query(Predicate(topic="ready"))) < PROCESSES:
            time.sleep(0.05)
        put(board, "go", "at", time.time() + 0.5)
        counts = [future.result() for future in futures]
    share = jain(counts)
    figures.add("fairness", share)
    figures.rows.append([f"Jain fairness, {PROCESSES} processes", round(share, 3), f"commits: {counts}", "", ""])
    figures.bars.append(Bar(f"Jain fairness over {PROCESSES} writing processes", share, 0.9))


def write_together(location: str, number: int, seconds: float) -> int:
    """Say that one is ready, commit for ``seconds`` from when all go, and return how often."""
    count = 0
    with Board.open(location) as board:
        put(board, "ready", f"process {number}", True)
        while (go := board.get("go", "at")) is None:
            time.sleep(0.05)
        begin = float(str(go.value))
        time.sleep(max(0.0, begin - time.time()))
        while time.time() < begin + seconds:
            put(board, f"process {number}", "count", count)
            count += 1
    return count


def put(board: Board, topic: str, key: str, value: Json) -> None:
    """Commit one entry."""
    transaction = board.begin("bench")
    transaction.put(topic, key, value, type="note")
    board.commit(transaction)


def jain(counts: Sequence[float]) -> float:
    """Return Jain's index: 1 where all are equal, 1/n where one has everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


def rates_beside(
    figures: Figures,
    arms: tuple[str, str],
    what: str,
    beside: Callable[[Board], AbstractContextManager[Any]],
    name: Callable[[], str],
    seconds: float,
    repeats: int,
) -> list[float]:
    """Add the commits/s of 16 agents without and with something ``beside`` them; return the second's share each time.

    ``arms`` name the two, ``what`` the row.
    """
    without, company = arms
    taken = interleave(
        {
            without: lambda: agents_on(name(), 16, seconds).rate,
            company: lambda: agents_on(name(), 16, seconds, beside=beside).rate,
        },
        max(2, repeats),
    )
    figures.repetitions.update(taken)
    told = f"{without}: {figures.median(without):,.0f}"
    figures.rows.append([f"commits/s, 16 agents, {what}", round(figures.median(company)), told, "", ""])
    return [rate / alone for alone, rate in zip(taken[without], taken[company], strict=True)]


def idle_cost(figures: Figures, name: Callable[[], str], seconds: float, repeats: int) -> None:
    """Add what a thousand subscribers cost that wait for what nobody writes, over at least :data:`PAIRS` runs.

    Two runs of the same differ by more than the bar allows, so that a few short ones say nothing.
    """
    arms, what = ("alone", "beside subscribers"), f"{SUBSCRIBERS:,} idle subscribers"
    shares = rates_beside(figures, arms, what, idle_subscribers, name, max(2.0, seconds), max(PAIRS, repeats))
    cost = 100 * (1 - median(shares))
    figures.bars.append(Bar(f"cost of {SUBSCRIBERS:,} idle subscribers, %", cost, 5, at_least=False))


def idle_subscribers(board: Board) -> ExitStack:
    """Let a thousand threads wait for what nobody writes, until the stack that is returned closes."""
    ended, idle = threading.Event(), threading.Barrier(SUBSCRIBERS + 1)

    def wait(subscription: Subscription) -> None:
        # The first look at the board is not idleness, and a thousand of them would be measured.
        subscription.wait(0)
        idle.wait()
        while not ended.is_set():
            subscription.wait(3600)

    # One after the other, and before anything is measured: each is a commit of its own in the database.
    subscriptions = [
        board.subscribe(f"idle {number}", Predicate(topic=f"idle {number}"), after=board.head)
        for number in range(SUBSCRIBERS)
    ]
    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=wait, args=(one,), daemon=True) for one in subscriptions]
    for thread in threads:
        thread.start()
    idle.wait()
    time.sleep(SETTLING)
    stack = ExitStack()

    def wake() -> None:
        ended.set()
        # Not in one commit: each who wakes reads the commit that woke it, and all of a thousand writes takes long.
        for woken in [board.submit(_end(board, number)) for number in range(SUBSCRIBERS)]:
            woken.result()
        for thread in threads:
            thread.join()

    stack.callback(wake)
    return stack


def _end(board: Board, number: int) -> Transaction:
    transaction = board.begin("bench")
    transaction.put(f"idle {number}", "end", True, type="note")
    return transaction
