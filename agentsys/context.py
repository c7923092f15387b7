"""The context of an agent: all it can touch. Values are labelled, steps recorded, writes transactional."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel

from agentsys import topics
from agentsys.actor import Actor
from agentsys.agents import Request
from agentsys.asking import approval_of_question
from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import ConfigurationError
from agentsys.events import RequestPosted
from agentsys.handles import Handle, Hidden
from agentsys.journal import ReplayDivergence, Step
from agentsys.labelled import Labelled, sources_of
from agentsys.model_asking import ModelAsking
from agentsys.questions import about_person
from agentsys.rounds import RoundOutcome
from agentsys.scope import Round, RunScope
from agentsys.tools import to_json

M = TypeVar("M", bound=BaseModel)


class Context(ModelAsking):
    """What one attempt of one actor works through.

    Steps are numbered in the order in which they are begun, so an actor that begins steps concurrently must begin them
    in a fixed order. ``ask`` ends the current transaction: what was put before it is committed with the request, and
    what is read after it includes what the round changed.
    """

    def __init__(self, scope: RunScope, actor: Actor) -> None:
        super().__init__(scope, actor)
        self.kept: str | None = None
        """The last request with which this attempt, or one that it repeats, committed writes."""
        self.lost: Transaction | None = None
        """The transaction that this attempt tried to commit last."""

    async def ask(
        self,
        kind: str,
        value: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a bound on the volunteers, not on this call
        max_volunteers: int | None = None,
        single: bool = False,
    ) -> RoundOutcome:
        """Post an un-addressed request and return how its round ended.

        ``timeout`` bounds each volunteer's work, in seconds. ``single`` asks for one answer, so that different answers
        are a :class:`~agentsys.rounds.Contradiction`.
        """
        outcome = await self._ask(kind, value, timeout, max_volunteers, single)
        self.deliver(outcome.label)
        self.learn(_sources(outcome))
        return outcome

    async def ask_hidden(
        self,
        kind: str,
        value: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a bound on the volunteers, not on this call
        max_volunteers: int | None = None,
    ) -> Handle:
        """Post a request as :meth:`ask` does, and return a handle of the list of answers, the best bid's first.

        How many there are, and whether there are any, is hidden too.
        """
        outcome = await self._ask(kind, value, timeout, max_volunteers, single=False)
        answers: list[Json] = [response.value for response in outcome.answers]
        return self._handle(Hidden(answers, outcome.label, sources=_sources(outcome)))

    async def _ask(
        self,
        kind: str,
        value: Any,
        timeout: float | None,  # noqa: ASYNC109 - a bound on the volunteers, not on this call
        max_volunteers: int | None,
        single: bool,
    ) -> RoundOutcome:
        if max_volunteers is not None and max_volunteers < 1:
            raise ConfigurationError(
                f"A request for {max_volunteers} volunteers has no answer.",
                remedy="Ask for one at least, or leave max_volunteers out for as many as the runtime allows.",
            )
        plain, labels = self._unwrap(value)
        document = self._scope.secrets.json(to_json(plain))
        step, recorded = self._take("ask", [kind, document, timeout, max_volunteers, single])
        label, sources = self._label.join(*labels), sources_of(value)
        request = Request(step.key, self.run, kind, document, label, self.agent, self._deadline(timeout), single)
        if recorded is None:
            recorded = await self._post(step, request, sources)
        else:
            self._skip_writes(recorded, repeated=recorded.key == step.key)
        posted: Any = recorded.value
        request = replace(request, id=recorded.key, deadline=posted["deadline"])
        known = tuple(dict.fromkeys((*self.read_so_far, *sources)))
        bounds = Round(request, recorded.seq, timeout, max_volunteers or self._scope.max_volunteers, known)
        outcome, closed = await self._run_round(bounds)
        self._workspace.advance(max(closed, self.actor.kept.get(recorded.key, 0)))
        return outcome

    async def ask_person(self, question: Any) -> Labelled[Any]:
        """Ask the owner, and wait for the answer however long it takes; a run that is resumed goes on waiting.

        Raises :class:`PolicyDenied` where the owner may not read the question, and
        :class:`~agentsys.approval_use.AnswerRefused`.
        """
        (plain, labels), sources = self._unwrap(question), sources_of(question)
        document = self._scope.secrets.json(to_json(plain))
        step, recorded = self._take("question", document)
        fresh = recorded is None
        if recorded is None:
            label = self._label.join(*labels)
            decision = self._scope.gateway.decide_question("this", label)
            self.decisions.require("ask a person", decision, about_person("this", label))
            approval = approval_of_question(self._scope, self.actor, step, self._identity(step), document, label)
            recorded = await self._post_approval(step, approval, sources)
        self.deliver(recorded.label)
        self.learn(sources)
        answered = await self._answered(recorded, fresh=fresh)
        return Labelled(answered.answer, answered.label)

    def conclude(self) -> tuple[Transaction, str]:
        """Hand over the last transaction, with the decisions not yet recorded, and the digest of its writes."""
        self._check()
        writes = self._workspace.writes_digest()
        transaction = self._workspace.take()
        self.decisions.write(transaction, f"{self.actor.path}#{self.actor.attempt}:end", self._label)
        return transaction, writes

    async def _run_round(self, bounds: Round) -> tuple[RoundOutcome, int]:
        with self._stopping():
            if self.actor.rated is None:
                return await self._scope.run_round(bounds)
            async with self._scope.agenda.pause(self.actor.rated):
                return await self._scope.run_round(bounds)

    def _deadline(self, timeout: float | None) -> float | None:
        bounds = [self.actor.deadline, None if timeout is None else time.time() + timeout]
        return min((bound for bound in bounds if bound is not None), default=None)

    async def _post(self, step: Step, request: Request, sources: Sequence[EntryVersionRef]) -> Step:
        body = {name: getattr(request, name) for name in ("kind", "value", "asked_by", "deadline", "single")}
        value: Json = {"writes": self._workspace.writes_digest(), "deadline": request.deadline}
        writing = self._workspace.has_writes
        transaction = self._workspace.take()
        transaction.put(topics.requests(self.run), step.key, body, type="request", label=request.label)
        self.lost = transaction
        read = (*transaction.reads, *sources)
        recorded = await self._record(replace(step, value=value, label=request.label), transaction, read)
        if writing:
            self.kept = recorded.key
        self._workspace.advance(recorded.seq)
        self._scope.emit(
            RequestPosted(self.run, step.key, request.kind, request.value, self.agent, label=request.label)
        )
        return recorded

    def _skip_writes(self, recorded: Step, *, repeated: bool) -> None:
        """Drop the writes that the recorded commit already holds; only an attempt ``repeated`` must make the same."""
        outcome: Any = recorded.value
        same = outcome["writes"] == self._workspace.writes_digest()
        if not same and not repeated:
            return
        if not same:
            self._fault = ReplayDivergence(
                f"The writes committed with step {recorded.key} of run {self.run} differ from the recorded ones."
            )
            raise self._fault
        if self._workspace.has_writes:
            self.kept = recorded.key
        if repeated or self._workspace.has_writes:
            self._workspace.drop()
            self._workspace.advance(recorded.seq)


def _sources(outcome: RoundOutcome) -> tuple[EntryVersionRef, ...]:
    """Return the versions of entries that the responses of a round were made from."""
    return tuple(dict.fromkeys(source for response in outcome.responses for source in response.sources))
