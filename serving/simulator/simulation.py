"""Runs a trace on a virtual clock: workflows issue calls, a core decides, replicas step.

Nothing is drawn by chance, so equal inputs give equal results. What a faulty core or scheduler does to a call, losing
it or answering it twice, ends the run with an error.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final, Protocol

from agentsys.errors import ServingError
from agentsys.serving.requests import Usage, WorkflowCall
from agentsys.serving.scheduling.calls import (
    Call,
    Cancel,
    Decision,
    Fail,
    Hedge,
    Move,
    NoReplicaError,
    OverloadedError,
    Rekey,
    Start,
)
from agentsys.serving.simulator.replica import Outcome, SimulatedCall, SimulatedReplica
from agentsys.serving.simulator.results import CallRecord, SimulationResult, WorkflowRecord
from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow, Unfolding, segment_base

EPOCH: Final = 1_000_000.0
"""Unix seconds at which a simulated trace starts."""


class SimulationError(ServingError):
    """A simulated core or scheduler lost a call, answered one twice, or counted its tokens wrongly."""

    code = "AGS-0471"
    remedy = "Correct the policy or the scheduler: it would do the same to real calls."


class Core(Protocol):
    """What decides: :class:`~agentsys.serving.scheduling.dispatch.DispatchCore`, or a rival."""

    def submit(self, call: Call, now: float) -> None: ...

    def progressed(self, call_id: str, replica: str, tokens: int, now: float) -> list[Decision]: ...

    def ended(self, call_id: str, replica: str, usage: Usage, now: float) -> list[Decision]: ...

    def decide(self, now: float) -> list[Decision]: ...

    def next_wake(self, now: float) -> float | None: ...

    def workflow_ended(self, workflow: str, now: float) -> None: ...


@dataclass(slots=True, eq=False)
class _Run:
    """A workflow under way."""

    workflow: TraceWorkflow
    unfolding: Unfolding
    deadline: float
    open: set[str] = field(default_factory=set)
    failed: bool = False


@dataclass(slots=True, eq=False)
class _Flight:
    """A call under way: ``kept`` answer tokens came from a replica that it was moved away from."""

    run: _Run
    place: int
    issued: float
    copies: dict[str, int] = field(default_factory=dict)
    shown: int = 0

    @property
    def call(self) -> TraceCall:
        return self.run.workflow.calls[self.place]


class Simulation:
    """One run. ``call_seconds`` is how long a call takes alone, ``scale`` multiplies the deadlines that follow."""

    def __init__(
        self,
        trace: Trace,
        replicas: Sequence[SimulatedReplica],
        core: Core,
        *,
        call_seconds: Callable[[TraceCall], float],
        scale: float = 2.0,
    ) -> None:
        self._trace, self._core = trace, core
        self._replicas = {replica.spec.name: replica for replica in replicas}
        self._call_seconds = call_seconds
        self._deadlines = trace.deadlines(call_seconds, scale)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers, self._arrivals = count(), count()
        self._flights: dict[str, _Flight] = {}
        self._wake = math.inf
        self._result = SimulationResult(replicas={name: one.totals for name, one in self._replicas.items()})

    def run(self) -> SimulationResult:
        """Run the trace to its end. Raises :class:`SimulationError`."""
        for workflow in self._trace.workflows:
            self._at(EPOCH + workflow.arrived, partial(self._arrive, workflow))
        now = EPOCH
        while self._events:
            if self._events[0][0] < now:
                raise SimulationError(f"time went back from {now - EPOCH} to {self._events[0][0] - EPOCH} s.")
            now = self._events[0][0]
            while self._events and self._events[0][0] == now:
                heapq.heappop(self._events)[2](now)
            self._settle(now)
        self._check_complete()
        self._result.seconds = now - EPOCH - self._trace.workflows[0].arrived
        return self._result

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), happen))

    def _arrive(self, workflow: TraceWorkflow, now: float) -> None:
        run = _Run(workflow, Unfolding(workflow), self._deadlines[workflow.workflow])
        self._issue_all(run, run.unfolding.begin(), now)

    def _issue_all(self, run: _Run, ready: Iterable[tuple[int, float]], now: float) -> None:
        for place, wait in ready:
            call_id = f"{run.workflow.workflow}/{place}"
            run.open.add(call_id)
            if wait > 0:
                self._at(now + wait, partial(self._issue, run, place, call_id))
            else:
                self._issue(run, place, call_id, now)

    def _issue(self, run: _Run, place: int, call_id: str, now: float) -> None:
        if run.failed:
            return
        workflow, call = run.workflow, run.workflow.calls[place]
        where = WorkflowCall(
            workflow=workflow.workflow,
            kind=workflow.kind,
            stage=call.stage,
            tenant=workflow.tenant,
            deadline=EPOCH + run.deadline,
            arrived=EPOCH + workflow.arrived,
        )
        self._flights[call_id] = _Flight(run, place, now)
        try:
            self._core.submit(Call(call_id, where, now, call.prompt_tokens, _most_tokens(call)), now)
        except (OverloadedError, NoReplicaError):
            self._fail(call_id)

    def _fail(self, call_id: str) -> None:
        """End a workflow of which a call was refused."""
        run = self._flights.pop(call_id).run
        if not run.failed:
            run.failed = True
            self._record_workflow(run, math.inf)

    def _settle(self, now: float) -> None:
        """Tell the core what became of everything by now, do what it says, and set the replicas to work."""
        for name, replica in self._replicas.items():
            for call_id, tokens in replica.progress(now).items():
                self._show(call_id, name, tokens, now)
        self._apply(self._core.decide(now), now)
        for replica in self._replicas.values():
            if replica.busy_until is None:
                replica.begin(now)
                self._expect(replica)
        wake = self._core.next_wake(now)
        if wake is not None and self._flights and (wake < self._wake or self._wake <= now):
            self._wake = max(wake, math.nextafter(now, math.inf))
            self._at(self._wake, lambda _now: None)

    def _expect(self, replica: SimulatedReplica) -> None:
        if replica.busy_until is not None:
            self._at(replica.busy_until, partial(self._finish, replica))

    def _finish(self, replica: SimulatedReplica, now: float) -> None:
        if replica.busy_until != now:
            return  # the step was cut short by a command, and an earlier event took its end
        outcome = replica.finish()
        for call_id, tokens in outcome.tokens.items():
            if call_id not in outcome.ended:
                self._show(call_id, replica.spec.name, tokens, now)
        for call_id, cached in outcome.ended.items():
            self._end(call_id, replica.spec.name, outcome, cached, now)

    def _show(self, call_id: str, replica: str, tokens: int, now: float) -> None:
        flight = self._flights.get(call_id)
        if flight is None or replica not in flight.copies:
            return
        tokens += flight.copies[replica]
        if tokens > flight.shown:
            flight.shown = tokens
            self._apply(self._core.progressed(call_id, replica, tokens, now), now)

    def _end(self, call_id: str, replica: str, outcome: Outcome, cached: int, now: float) -> None:
        flight = self._flights.get(call_id)
        if flight is None or replica not in flight.copies:
            if self._result.decisions["Cancel"] + self._result.decisions["Move"] == 0:
                raise SimulationError(f"{replica} answered call {call_id!r}, which it does not have.")
            return
        call, run = flight.call, flight.run
        tokens = flight.copies[replica] + outcome.tokens[call_id]
        if tokens != call.completion_tokens:
            raise SimulationError(f"{replica} gave call {call_id!r} {tokens} of {call.completion_tokens} tokens.")
        del self._flights[call_id]
        run.open.discard(call_id)
        ready = run.unfolding.ended(flight.place)
        usage = Usage(prompt_tokens=call.prompt_tokens, cached_tokens=cached, completion_tokens=tokens)
        self._apply(self._core.ended(call_id, replica, usage, now), now)
        self._record_call(flight, replica, cached, now)
        if run.unfolding.done and not run.failed:
            self._core.workflow_ended(run.workflow.workflow, now)
            self._record_workflow(run, now - EPOCH)
        self._issue_all(run, ready, now)

    def _apply(self, decisions: Iterable[Decision], now: float) -> None:
        for decision in decisions:
            self._result.decisions[type(decision).__name__] += 1
            match decision:
                case Start(call_id, replica, urgency) | Hedge(call_id, replica, urgency):
                    self._submit(call_id, replica, urgency, 0, now)
                case Rekey(call_id, replica, urgency):
                    self._replicas[replica].rekey(call_id, urgency, now)
                    self._expect(self._replicas[replica])
                case Cancel(call_id, replica):
                    self._abort(call_id, replica, now)
                case Move(call_id, source, target, urgency):
                    shown = self._flights[call_id].shown
                    self._abort(call_id, source, now)
                    self._submit(call_id, target, urgency, shown, now)
                case Fail(call_id):
                    self._fail(call_id)

    def _submit(self, call_id: str, name: str, urgency: float, kept: int, now: float) -> None:
        flight = self._flights.get(call_id)
        if flight is None or name in flight.copies:
            raise SimulationError(f"the core started call {call_id!r} at {name}, where it is or has been answered.")
        flight.copies[name] = kept
        workflow, place = flight.run.workflow, flight.place
        segments = [(segment_base(part), tokens) for part, tokens in workflow.segments(place)]
        if kept:
            segments.append((segment_base(f"answer:{call_id}"), kept))
        left = flight.call.completion_tokens - kept
        replica = self._replicas[name]
        replica.submit(SimulatedCall(call_id, segments, left, urgency, next(self._arrivals)), now)
        self._expect(replica)

    def _abort(self, call_id: str, name: str, now: float) -> None:
        flight, replica = self._flights.get(call_id), self._replicas[name]
        if flight is not None:
            flight.copies.pop(name, None)
        replica.abort(call_id, now)
        self._expect(replica)

    def _record_call(self, flight: _Flight, replica: str, cached: int, now: float) -> None:
        call, workflow = flight.call, flight.run.workflow
        self._result.calls.append(
            CallRecord(
                workflow=workflow.workflow,
                place=flight.place,
                stage=call.stage,
                tenant=workflow.tenant,
                replica=replica,
                issued=flight.issued - EPOCH,
                ended=now - EPOCH,
                prompt_tokens=call.prompt_tokens,
                completion_tokens=call.completion_tokens,
                cached_tokens=cached,
            )
        )

    def _record_workflow(self, run: _Run, ended: float) -> None:
        workflow = run.workflow
        self._result.workflows.append(
            WorkflowRecord(
                workflow=workflow.workflow,
                kind=workflow.kind,
                tenant=workflow.tenant,
                arrived=workflow.arrived,
                ended=ended,
                deadline=run.deadline,
                isolated=workflow.critical_path(self._call_seconds),
                tightness=workflow.tightness,
            )
        )

    def _check_complete(self) -> None:
        ended = {record.workflow for record in self._result.workflows}
        lost = [one.workflow for one in self._trace.workflows if one.workflow not in ended]
        if lost:
            raise SimulationError(f"{len(lost)} workflows never ended, {lost[0]!r} the first of them.")


def _most_tokens(call: TraceCall) -> int:
    """Return the bound that a caller would give: generous, so that it tells nothing of the answer's length."""
    return max(1024, 1 << call.completion_tokens.bit_length())
