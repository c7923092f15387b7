"""The steps of one attempt of an actor: taken in order, found on record or put there, under the actor's label."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agentsys.actor import Actor
from agentsys.agents import UnknownAgent
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.storage import BoardFull, StorageFailed
from agentsys.blackboard.transactions import Transaction
from agentsys.decisions import DecisionLog, Noted
from agentsys.errors import AgentsysError, RunError
from agentsys.handles import Handle, Hidden, NoValue
from agentsys.journal import Cursor, RecordEnded, ReplayDivergence, Step, digest
from agentsys.labelled import unwrap
from agentsys.leases import LeaseLost
from agentsys.quotas import Charge, is_race, spend
from agentsys.scope import RunScope
from agentsys.tool_calls import UnknownTool

FATAL = (ReplayDivergence, RecordEnded, LeaseLost, UnknownAgent, UnknownTool, StorageFailed, BoardFull)
"""Errors that are about the execution as a whole, never an agent's own failure: some other time it may go on."""


class ContextClosed(RunError):
    """A context was used after its actor had ended."""

    code = "AGS-0622"
    remedy = "Await every task that an agent starts before it returns."


class Recording:
    """What a :class:`~agentsys.context.Context` is built on; its own API is the clock and randomness, recorded."""

    def __init__(self, scope: RunScope, actor: Actor) -> None:
        self.actor = actor
        self._scope = scope
        self._label = actor.label
        self._cursor = Cursor(scope.journal, actor.path, actor.attempt)
        self.decisions = DecisionLog(scope, actor.name, lambda: self._label)
        self._fault: AgentsysError | None = None
        self._handles = 0
        self._named = 0
        """How many of the versions that were read the steps on record name."""

    @property
    def run(self) -> str:
        """The run's identifier."""
        return self._scope.run

    @property
    def agent(self) -> str:
        """The acting agent's name."""
        return self.actor.name

    @property
    def label(self) -> Label:
        """The control label: the join of everything delivered to the actor so far."""
        return self._label

    @property
    def fault(self) -> AgentsysError | None:
        """Why the attempt can do nothing more, whatever the actor's code made of it."""
        return self._fault

    async def now(self) -> float:
        """Return the time in unix seconds, recorded."""
        return float(await self._journaled("now", time.time))

    async def random(self) -> float:
        """Return a random number in [0, 1), recorded."""
        return float(await self._journaled("random", random.random))

    async def uuid(self) -> str:
        """Return a random UUID, recorded."""
        return str(await self._journaled("uuid", lambda: str(uuid.uuid4())))

    def deliver(self, *labels: Label) -> None:
        """Raise the control label: something with these labels reached the actor."""
        self._label = self._label.join(*labels)

    def _handle(self, hidden: Hidden) -> Handle:
        return Handle(self._handle_name(), hidden)

    def _handle_name(self) -> str:
        self._handles += 1
        return f"${self._handles}"

    @contextmanager
    def _delivering_no_value(self) -> Iterator[None]:
        """Raise the control label where a handle turns out to stand for nothing, which tells something of it."""
        try:
            yield
        except NoValue as nothing:
            self.deliver(nothing.label)
            raise

    def _unwrap(self, value: Any) -> tuple[Any, list[Label]]:
        with self._delivering_no_value():
            return unwrap(value)

    def close(self) -> None:
        """End the attempt: work that the actor left running can do nothing more through this context."""
        self._fault = self._fault or ContextClosed(f"{self.actor.path} of run {self.run} has ended.")

    def _identity(self, step: Step) -> str:
        """Return the identifier of a step's effect or approval: the same however often the run is resumed."""
        return digest([self.run, self.actor.path, step.input, step.occurrence])

    async def _journaled(self, kind: str, produce: Callable[[], Json]) -> Any:
        step, recorded = self._take(kind, None)
        if recorded is None:
            recorded = await self._record(replace(step, value=produce(), label=self._label))
        return recorded.value

    def _take(self, kind: str, arguments: Json, once: Sequence[Json] = ()) -> tuple[Step, Step | None]:
        self._check()
        try:
            step, recorded = self._cursor.take(kind, arguments, once)
        except AgentsysError as error:
            self._fault = error
            raise
        if recorded is not None and recorded.key == step.key:
            # A commit that is being repeated has them on record.
            self.decisions.take()
        return step, recorded

    async def _record(
        self,
        step: Step,
        transaction: Transaction | None = None,
        derived_from: Sequence[EntryVersionRef] | None = None,
    ) -> Step:
        with self._stopping():
            return await self._submit_step(step, transaction or self._begin(), derived_from, self.decisions.take())

    async def _record_spending(
        self,
        step: Step,
        charges: Sequence[Charge],
        fill: Callable[[Transaction], None] = lambda transaction: None,
        derived_from: Sequence[EntryVersionRef] | None = None,
    ) -> Step:
        """Record a step with what ``fill`` adds and what it costs. Raises :class:`~agentsys.quotas.QuotaExceeded`."""
        with self._stopping():
            taken = self.decisions.take()
            while True:
                transaction = await self._begin_spending(charges, fill)
                try:
                    return await self._submit_step(step, transaction, derived_from, taken)
                except Conflict as conflict:
                    if not is_race(conflict):
                        raise

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Do nothing more after an error that is about the execution, even where the actor's code swallows it."""
        try:
            yield
        except (Conflict, *FATAL) as error:
            self._fault = self._fault or error
            raise

    def _begin(self) -> Transaction:
        return self._scope.journal.begin(f"agent:{self.agent}")

    async def _begin_spending(self, charges: Sequence[Charge], fill: Callable[[Transaction], None]) -> Transaction:
        def begin(at: int | None = None) -> Transaction:
            transaction = self._scope.journal.begin(f"agent:{self.agent}", at=at)
            fill(transaction)
            spend(transaction, charges)
            return transaction

        # Other runs may have spent since this one's last commit.
        return await asyncio.to_thread(lambda: begin(self._scope.board.head)) if charges else begin()

    async def _submit_step(
        self,
        step: Step,
        transaction: Transaction,
        derived_from: Sequence[EntryVersionRef] | None,
        taken: tuple[Noted, ...],
    ) -> Step:
        self._check()
        self.decisions.write(transaction, step.key, self._label, taken)
        read = self.read_so_far
        sources = (*(transaction.reads if derived_from is None else derived_from), *read[self._named :])
        recorded = await self._scope.journal.record(step, transaction, tuple(dict.fromkeys(sources)))
        self._named = max(self._named, len(read))
        return recorded

    @property
    def read_so_far(self) -> Sequence[EntryVersionRef]:
        """The versions of entries that the actor has read, in order of first reading."""
        return ()

    def _check(self) -> None:
        """Refuse to go on after a lost conflict or a divergence, even where the actor's code swallowed the error."""
        if self._fault is not None:
            raise self._fault
