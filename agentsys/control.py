"""The control loop: offers a posted request to interested agents, lets the best bidders act, closes the round.

Every stage is recorded before the next begins, so a round goes on after a crash where it stood: the bids in one commit
with the choice, each response in the transaction of the agent that gave it, the closing in one commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentsys import topics
from agentsys.actor import Actor
from agentsys.actors import ActorFailed, Conclusion, perform
from agentsys.agenda import rating
from agentsys.agents import Agent, Bid, Decline, Request, UnknownAgent
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json, canonical_json
from agentsys.blackboard.labels import BOTTOM, Label, join_all
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.cancellation import stray_cancellation_as_error
from agentsys.context import Context
from agentsys.decisions import DecisionLog
from agentsys.errors import RunError
from agentsys.events import BidMade, Responded, RoundClosed
from agentsys.journal import RecordEnded, ReplayDivergence, submit
from agentsys.labelled import unwrap
from agentsys.rounds import Failure, Response, ResponseStatus, RoundOutcome, classify
from agentsys.scope import Round, RunScope
from agentsys.threads import within, without_exit
from agentsys.tools import to_json

BID_TIMEOUT = 30.0
"""Seconds an agent has to decide whether it volunteers."""

MAX_DEPTH = 16
"""Requests that may be open inside one another: agents that ask agents without end are stopped here."""


class TooDeep(RunError):
    """Agents kept asking agents."""

    code = "AGS-0611"
    remedy = "Break the circle: some agent asks, directly or through others, for what it is asked for itself."


@dataclass(frozen=True, slots=True)
class RecordedBid:
    """A bid as it stands on the board; ``failure`` instead of an offer where volunteering crashed."""

    agent: str
    score: float
    cost: float
    reason: str
    value: Json
    chosen: bool
    failure: str | None
    label: Label

    @staticmethod
    def of(entry: Entry) -> RecordedBid:
        body: Any = entry.value
        return RecordedBid(**body, label=entry.label)

    def to_json(self) -> dict[str, Json]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "label"}


class ControlLoop:
    """Runs the rounds of one run."""

    def __init__(self, scope: RunScope) -> None:
        self._scope = scope
        self._board = scope.board

    async def run_round(self, posted: Round) -> tuple[RoundOutcome, int]:
        """Bring a round to its end, from wherever the record stands. Returns the outcome and the closing commit."""
        request = posted.request
        if request.id.count("/") >= MAX_DEPTH:
            raise TooDeep(f"The request {request.kind!r} of {request.asked_by} is {MAX_DEPTH} requests deep.")
        closed = await asyncio.to_thread(self._board.get, topics.rounds(request.run), request.id)
        if closed is None and self._scope.replaying:
            raise RecordEnded(f"Run {request.run} has no record of the end of round {request.id}.")
        bids = await self._recorded_bids(request)
        if closed is None and not bids:
            bids = await self._collect_bids(posted)
        if closed is None or self._scope.replaying:
            await self._act(posted, [bid for bid in bids if bid.chosen])
        outcome = await asyncio.to_thread(self._outcome, request, bids)
        return outcome, _closed_at(closed) if closed else await self._close(request, outcome)

    async def _collect_bids(self, posted: Round) -> list[RecordedBid]:
        request = posted.request
        asked = self._scope.agents.interested(request.kind, excluding=request.asked_by)
        offers = await asyncio.gather(*(self._offer(member, request) for member in asked))
        made = [offer for offer in offers if offer is not None]
        ranked = sorted((bid for bid in made if bid.failure is None), key=lambda bid: (-bid.score, bid.agent))
        chosen = {bid.agent for bid in ranked[: posted.max_volunteers]}
        transaction = self._scope.journal.begin("runtime")
        for bid in made:
            body = bid.to_json() | {"chosen": bid.agent in chosen}
            transaction.put(topics.bids(request.run, request.id), bid.agent, body, type="bid", label=bid.label)
            if bid.failure is None:
                self._scope.emit(
                    BidMade(
                        request.run,
                        request.id,
                        bid.agent,
                        bid.score,
                        bid.reason,
                        bid.agent in chosen,
                        label=bid.label,
                    )
                )
        if made:
            await submit(self._board, transaction)
        return await self._recorded_bids(request)

    async def _offer(self, member: Agent, request: Request) -> RecordedBid | None:
        try:
            with stray_cancellation_as_error():
                bid = await within(BID_TIMEOUT, without_exit(member.volunteer(request)))
            return None if bid is None else self._as_recorded(bid, member, request)
        except Exception as error:
            failure = Failure.of(error, self._scope.secrets.text)
            text = f"{failure.type}: {failure.message}"
            # The message may quote anything the agent looked at, and nobody declared what that was.
            return RecordedBid(member.name, 0.0, 1.0, "", None, False, text, request.label.join(Label()))

    def _as_recorded(self, bid: Bid, member: Agent, request: Request) -> RecordedBid:
        value, labels = unwrap(bid.value)
        label, secrets = request.label.join(bid.label or BOTTOM, *labels), self._scope.secrets
        reason, offered = secrets.text(bid.reason), secrets.json(to_json(value))
        recorded = RecordedBid(member.name, bid.score, bid.cost, reason, offered, False, None, label)
        # A bid that cannot be recorded is its agent's failure; found out later, it would be the whole round's.
        canonical_json(recorded.to_json())
        return recorded

    async def _recorded_bids(self, request: Request) -> list[RecordedBid]:
        """Return the round's bids, best first."""
        found = await asyncio.to_thread(self._board.query, Predicate(topic=topics.bids(request.run, request.id)))
        return sorted(map(RecordedBid.of, found), key=lambda bid: (-bid.score, bid.agent))

    async def _act(self, posted: Round, chosen: list[RecordedBid]) -> None:
        results = await asyncio.gather(*(self._answer(posted, bid) for bid in chosen), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _answer(self, posted: Round, bid: RecordedBid) -> None:
        request = posted.request
        recorded = await asyncio.to_thread(self._response, request, bid.agent)
        if recorded is not None and not (self._scope.replaying and recorded.status == "ok"):
            return
        member = self._scope.agents.get(bid.agent)
        if member is None:
            raise UnknownAgent(f"Run {request.run} needs the agent {bid.agent!r}, which is not registered.")
        rated = rating(self._scope.urgency(request.deadline) - time.time(), bid.score, bid.cost)
        path = f"{request.id}/{bid.agent}"
        label = request.label.join(bid.label)
        actor = Actor(path, bid.agent, label, posted.seq, request.deadline, rated, known=posted.known)
        async with self._scope.agenda.turn(rated):
            conclusion = await self._attempt_answer(posted, member, actor, recorded is None)
        if self._scope.replaying and recorded is not None:
            self._compare(path, recorded, conclusion)

    async def _attempt_answer(self, posted: Round, member: Agent, actor: Actor, open_ended: bool) -> Conclusion | None:
        request = posted.request
        attempts: list[Context] = []

        async def body(context: Context) -> Any:
            attempts.append(context)
            return await member.act(context, request)

        def conclude(transaction: Transaction, conclusion: Conclusion) -> None:
            response = Response(member.name, "ok", conclusion.value, conclusion.label)
            self._put_response(transaction, request, response, conclusion.writes, conclusion.read)

        # How long a replay takes says nothing of the run.
        limit = asyncio.timeout(None if self._scope.replaying else posted.timeout)
        try:
            async with limit:
                conclusion = await perform(self._scope, actor, body, conclude if open_ended else None)
        except ActorFailed as failed:
            await self._record_failure(posted, member, failed)
            return None
        except TimeoutError:
            late = TimeoutError(f"no answer within {posted.timeout} s")
            # What it had seen may be why it was late.
            label = actor.label.join(*(context.label for context in attempts))
            decisions = attempts[-1].decisions if attempts else DecisionLog(self._scope, actor.name, lambda: label)
            read = [version for context in attempts for version in context.read_so_far]
            await self._record_failure(posted, member, ActorFailed(late, label, decisions, read), "timed_out")
            return None
        self._scope.emit(Responded(request.run, request.id, member.name, "ok"))
        return conclusion

    async def _record_failure(
        self, posted: Round, member: Agent, failed: ActorFailed, status: ResponseStatus = "crashed"
    ) -> None:
        request = posted.request
        if isinstance(failed.cause, Decline):
            status = "declined"
        # The answer's own commit may have won the race against the timeout.
        recorded = None if self._scope.replaying else await asyncio.to_thread(self._response, request, member.name)
        if recorded is not None:
            status = recorded.status
        elif not self._scope.replaying:
            response = Response(
                member.name, status, None, failed.label, Failure.of(failed.cause, self._scope.secrets.text)
            )
            transaction = self._scope.journal.begin("runtime")
            self._put_response(transaction, request, response, "", failed.read)
            failed.decisions.write(transaction, f"{request.id}/{member.name}:failed", failed.label)
            await submit(self._board, transaction)
        self._scope.emit(Responded(request.run, request.id, member.name, status))

    @staticmethod
    def _put_response(
        transaction: Transaction,
        request: Request,
        response: Response,
        writes: str,
        derived_from: Sequence[EntryVersionRef],
    ) -> None:
        body: Json = {
            "status": response.status,
            "value": response.value,
            "failure": response.failure.to_json() if response.failure else None,
            "writes": writes,
        }
        topic = topics.responses(request.run, request.id)
        transaction.put(topic, response.agent, body, type="response", label=response.label, derived_from=derived_from)

    def _response(self, request: Request, name: str) -> Response | None:
        entry = self._board.get(topics.responses(request.run, request.id), name)
        if entry is None:
            return None
        body: Any = entry.value
        failure = Failure(**body["failure"]) if body["failure"] else None
        return Response(name, body["status"], body["value"], entry.label, failure, entry.derived_from)

    def _compare(self, path: str, recorded: Response, conclusion: Conclusion | None) -> None:
        if conclusion is None or conclusion.value != recorded.value:
            now = "an error" if conclusion is None else repr(conclusion.value)
            raise ReplayDivergence(f"{path} answered {recorded.value!r} and now gives {now}.")

    def _outcome(self, request: Request, bids: list[RecordedBid]) -> RoundOutcome:
        found = [self._response(request, bid.agent) for bid in bids if bid.chosen]
        responses = [response for response in found if response is not None]
        label = request.label.join(join_all(bid.label for bid in bids))
        return classify(request.id, responses, label, single=request.single)

    async def _close(self, request: Request, outcome: RoundOutcome) -> int:
        transaction = self._scope.journal.begin("runtime")
        body = {"outcome": outcome.name, "agents": [response.agent for response in outcome.responses]}
        transaction.put(topics.rounds(request.run), request.id, body, type="round", label=outcome.label)
        commit = await submit(self._board, transaction)
        self._scope.emit(RoundClosed(request.run, request.id, outcome.name, label=outcome.label))
        return commit.seq


def _closed_at(closed: Entry) -> int:
    body: Any = closed.value
    return int(body.get("seq", closed.seq))
