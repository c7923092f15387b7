"""Memoised calls: a pure tool or deterministic model call that was made before, under the same label, is not repeated.

Calls opt in. One that begins while the same is under way, in this process or another, waits for that one's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import EntryVersionRef, Json, Key
from agentsys.blackboard.labels import Label
from agentsys.blackboard.memo import Memo, Question, Remembered
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import BoardError, ConfigurationError
from agentsys.journal import digest, submit
from agentsys.policy.policy import Policy
from agentsys.serving.requests import SamplingParams

DAY: Final = 86_400.0
LONGEST_SECONDS: Final = 7 * DAY
"""How long an answer holds at most, unless the runtime says otherwise."""
POLL_SECONDS: Final = 0.05
"""How soon another process's answer is seen."""


@dataclass(frozen=True, slots=True)
class Memoise:
    """The word of a tool's or a call's author that equal questions have equal answers, and for how long.

    ``version`` changes whenever the answers might: with the data behind a tool, say. An answer holds for ``seconds``,
    and never longer than the runtime allows. ``depends_on`` lists the entries, by topic and key, that the answer
    follows from beside the parameters, or is a function from a tool's arguments to that list; the caller reads them,
    and once one is superseded the answer is not used any more.
    """

    version: str = ""
    seconds: float | None = None
    depends_on: Sequence[Key] | Callable[[dict[str, Any]], Sequence[Key]] = ()

    def addresses(self, arguments: dict[str, Any]) -> Sequence[Key]:
        return self.depends_on(arguments) if callable(self.depends_on) else self.depends_on


@dataclass(frozen=True, slots=True)
class Asked:
    """Of whom a call asks something: a tool, or a model. Without ``memo``, its author says nothing of equal answers.

    ``depends_on`` is ``None`` where the caller itself has just written what the answer follows from.
    """

    kind: str
    name: str
    memo: Memoise | None
    depends_on: tuple[EntryVersionRef, ...] | None


@dataclass(slots=True)
class Turn:
    """A question's turn: what is on record, or else the right to answer it; without a question, neither."""

    memo: Memo
    question: Question | None = None
    key: str = ""
    found: Remembered | None = None
    kept: bool = False

    def keep(self, transaction: Transaction, answer: Json, label: Label) -> None:
        """Put the answer on record with ``transaction``."""
        if self.question is not None and self.found is None:
            self.memo.keep(transaction, self.key, self.question, answer, label, time.time())
            self.kept = True


class Memoisation:
    """The memoised calls of one runtime. ``longest`` is how many seconds an answer holds at most; 0 turns it off."""

    def __init__(self, board: Board, policy: Policy, longest: float = LONGEST_SECONDS) -> None:
        self._memo = Memo(board)
        self._board = board
        self._policy = policy.version
        self._longest = longest
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def question(self, asked: Asked, version: str, parameters: Json, label: Label) -> Question | None:
        """Return what a call asks, of whom in which ``version``; ``None`` where memory is not to answer it."""
        if asked.memo is None or asked.depends_on is None:
            return None
        seconds = self._longest if asked.memo.seconds is None else min(asked.memo.seconds, self._longest)
        known = f"{version} {asked.memo.version}"
        return Question(asked.kind, asked.name, known, parameters, self._policy, label, seconds, asked.depends_on)

    @asynccontextmanager
    async def turn(self, question: Question | None) -> AsyncIterator[Turn]:
        """Wait until nobody else is answering the question, and take its turn."""
        if question is None or question.seconds <= 0:
            yield Turn(self._memo)
            return
        key = await asyncio.to_thread(self._memo.key, question)
        async with self._under_way.setdefault(key, asyncio.Lock()):
            turn = Turn(self._memo, question, key)
            try:
                turn.found = await self._found_or_claimed(key, question.label)
                yield turn
            except BaseException:
                # What the answer was to be kept with may not have been committed.
                turn.kept = False
                raise
            finally:
                if turn.found is None and not turn.kept:
                    await self._give_back(key, question.label)

    async def _found_or_claimed(self, key: str, label: Label) -> Remembered | None:
        """Return the answer, or ``None`` once this process has claimed to give it."""
        while True:
            found = await asyncio.to_thread(self._memo.find_or_claim, key, label, time.time())
            if isinstance(found, Remembered):
                return found
            if found is None:
                await asyncio.sleep(POLL_SECONDS)
                continue
            with contextlib.suppress(Conflict):
                await submit(self._board, found)
                return None

    async def _give_back(self, key: str, label: Label) -> None:
        """Let others answer a question, if this process claims to."""
        with contextlib.suppress(BoardError):
            claimed = await asyncio.to_thread(self._memo.release, key, label)
            if claimed is not None:
                await submit(self._board, claimed)


def check_deterministic(memo: Memoise | None, sampling: SamplingParams) -> None:
    """Raise :class:`ConfigurationError` where equal questions to a model may have different answers."""
    if memo is not None and sampling.temperature > 0 and sampling.seed is None:
        raise ConfigurationError(
            f"A model call with temperature {sampling.temperature} and no seed cannot be answered from memory.",
            remedy="Set temperature 0 or a seed, or leave memo= out.",
        )


def version_of(function: Callable[..., Any]) -> str:
    """Return what tells apart a function's present code from an earlier one, as far as its own source shows."""
    try:
        return digest(inspect.getsource(function))
    except (OSError, TypeError):
        return ""
