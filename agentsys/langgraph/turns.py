"""Calls of one turn of an event loop that write to one lineage go into one commit.

LangGraph starts the writes of a superstep's tasks and the checkpoint after them without waiting in between: together
they need one place in the log and one trip to the disk. Each call ends when the commit is durable, and fails alone: it
may have been refused for what another of its turn writes, so it is told only once that stands.

A lineage has one commit under way at a time. The next one would build on what that one writes, and so takes along all
that is asked for meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from agentsys.blackboard.awaiting import call_when_done
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.addresses import Place
from agentsys.langgraph.newest import NewestCheckpoints

PRINCIPAL = "langgraph"
_T = TypeVar("_T")


class Operation(Protocol[_T]):
    """Something to be written to one lineage; ``keep`` is told of the commit that did."""

    @property
    def place(self) -> Place: ...

    def write(self, tx: Transaction) -> _T: ...

    def keep(self, commit: Commit, result: _T) -> None: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    operation: Operation[Any]
    done: asyncio.Future[None]

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


_Line: TypeAlias = tuple[asyncio.AbstractEventLoop, str]
"""Who waits for each other: an event loop, and the name of a lineage."""

PATIENCE: Final = 2
"""Turns of the loop in which who was told of a commit asks for what comes next, such as a graph's next checkpoint."""


class Turns:
    """Commits operations to ``board``, those of one turn and lineage at once."""

    def __init__(self, board: Board, known: NewestCheckpoints) -> None:
        self._board = board
        self._known = known
        self._waiting: dict[_Line, list[_Asked]] = {}
        """What to commit next, for each line that has a commit to end or to begin."""

    def commit(self, operation: Operation[Any]) -> None:
        """Carry out one operation and wait until it is durable."""
        while True:
            known = self._known.head(operation.place)
            transaction = self._board.begin(PRINCIPAL)
            result = operation.write(transaction)
            try:
                operation.keep(self._board.commit(transaction), result)
                return
            except Conflict:
                # What to write depends on nothing but what is there now, so it is decided again.
                self._known.forget(operation.place, known)

    async def ask(self, operation: Operation[Any]) -> None:
        """Carry out ``operation`` at the end of this turn, or after the commit under way; wait until it is durable."""
        loop = asyncio.get_running_loop()
        asked = _Asked(operation, loop.create_future())
        line = loop, operation.place.name
        waiting = self._waiting.get(line)
        if waiting is None:
            self._waiting[line] = [asked]
            loop.call_soon(self._begin, line)
        else:
            waiting.append(asked)
        await asked.done

    def _begin(self, line: _Line, patience: int = 0) -> None:
        if patience:
            line[0].call_soon(self._begin, line, patience - 1)
            return
        turn, self._waiting[line] = self._waiting[line], []
        self._submit(line, turn)

    def _end(self, line: _Line) -> None:
        if self._waiting[line]:
            self._begin(line, PATIENCE)
        else:
            del self._waiting[line]

    def _submit(self, line: _Line, turn: Sequence[_Asked]) -> None:
        try:
            known = self._known.head(turn[0].operation.place)
            transaction = self._board.begin(PRINCIPAL)
            written = _Written.of(transaction, turn, known)
            if written.done:
                committing = self._board.submit(transaction)
                call_when_done(committing, lambda committed: self._settle(line, committed, written))
                return
            written.refuse()
        except Exception as error:
            # Nobody waits for this function itself.
            for asked in turn:
                asked.fail(error)
        self._end(line)

    def _settle(self, line: _Line, committed: Future[Commit], written: _Written) -> None:
        error = committed.exception()
        if isinstance(error, Conflict):
            self._known.forget(written.turn[0].operation.place, written.known)
            # Also who was refused: perhaps for what is not written now.
            self._submit(line, written.turn)
            return
        try:
            if error is None:
                written.succeed(committed.result())
                written.refuse()
            else:
                for asked in written.turn:
                    asked.fail(error)
        finally:
            self._end(line)


@dataclass(frozen=True, slots=True)
class _Written:
    """What became of a turn in one transaction: results of those it carries out, errors of those it refused.

    ``known`` is the lineage's head as it was known before.
    """

    turn: Sequence[_Asked]
    known: Entry | None
    done: list[tuple[_Asked, Any]]
    refused: list[tuple[_Asked, Exception]]

    @staticmethod
    def of(transaction: Transaction, turn: Sequence[_Asked], known: Entry | None) -> _Written:
        """Let ``transaction`` write what was asked for, without what fails."""
        written = _Written(turn, known, [], [])
        for asked in turn:
            if asked.done.done():
                continue
            mark = transaction.savepoint()
            try:
                written.done.append((asked, asked.operation.write(transaction)))
            except Exception as error:
                transaction.rollback_to(mark)
                written.refused.append((asked, error))
        return written

    def succeed(self, commit: Commit) -> None:
        for asked, result in self.done:
            asked.operation.keep(commit, result)
            if not asked.done.done():
                asked.done.set_result(None)

    def refuse(self) -> None:
        for asked, error in self.refused:
            asked.fail(error)
