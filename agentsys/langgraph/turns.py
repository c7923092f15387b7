"""Calls of one turn of an event loop that write to one lineage go into one commit.

LangGraph starts the writes of a superstep's tasks and the checkpoint after them without waiting in between: together
they need one place in the log and one trip to the disk. Each call ends when the commit is durable, and fails alone: it
may have been refused for what another of its turn writes, so it is told only once that stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

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


_Turn: TypeAlias = tuple[asyncio.AbstractEventLoop, str]
"""An event loop, and the name of a lineage."""


class Turns:
    """Commits operations to ``board``, those of one turn and lineage at once."""

    def __init__(self, board: Board, known: NewestCheckpoints) -> None:
        self._board = board
        self._known = known
        self._asked: dict[_Turn, list[_Asked]] = {}

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
        """Carry out ``operation`` at the end of this turn, and wait until it is durable."""
        loop = asyncio.get_running_loop()
        asked = _Asked(operation, loop.create_future())
        turn = loop, operation.place.name
        others = self._asked.get(turn)
        if others is None:
            self._asked[turn] = [asked]
            loop.call_soon(self._end, turn)
        else:
            others.append(asked)
        await asked.done

    def _end(self, turn: _Turn) -> None:
        self._submit(self._asked.pop(turn))

    def _submit(self, turn: Sequence[_Asked]) -> None:
        try:
            known = self._known.head(turn[0].operation.place)
            transaction = self._board.begin(PRINCIPAL)
            written = _Written.of(transaction, turn, known)
            if written.done:
                call_when_done(self._board.submit(transaction), lambda committed: self._settle(committed, written))
            else:
                written.refuse()
        except Exception as error:
            # Nobody waits for this function itself.
            for asked in turn:
                asked.fail(error)

    def _settle(self, committed: Future[Commit], written: _Written) -> None:
        error = committed.exception()
        if isinstance(error, Conflict):
            self._known.forget(written.turn[0].operation.place, written.known)
            # Also who was refused: perhaps for what is not written now.
            self._submit(written.turn)
        elif error is not None:
            for asked in written.turn:
                asked.fail(error)
        else:
            written.succeed(committed.result())
            written.refuse()


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
