"""Which call runs where and when: one queue for all replicas of a model, and late binding.

A call waits in the common queue until a replica that suits it has a free slot, or one that preempts runs something
less urgent. So a replica that turns out slow holds nothing back but what it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from agentsys.serving.engine import check_adapter
from agentsys.serving.requests import Usage
from agentsys.serving.scheduling.calls import (
    Call,
    Cancel,
    Decision,
    Fail,
    NoReplicaError,
    OverloadedError,
    Rekey,
    ReplicaSpec,
    Start,
)
from agentsys.serving.scheduling.estimates import Estimates
from agentsys.serving.scheduling.fairness import TenantShares
from agentsys.serving.scheduling.in_flight import DispatchedCall, DispatchLimits
from agentsys.serving.scheduling.lengths import OutputLengths
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS, CallFacts, Option, Policy, UrgencyPolicy
from agentsys.serving.scheduling.queue import WaitingQueue
from agentsys.serving.scheduling.rebalancing import Rebalancer
from agentsys.serving.scheduling.replicas import Replica
from agentsys.serving.scheduling.stages import Demand
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.scheduling.triage import Job, late_jobs
from agentsys.serving.scheduling.workflows import Workflow, WorkflowTable

_WORKFLOWS_A_TRIAGE: Final = 256


class DispatchCore:
    """The dispatcher of one model without clock, threads and engines. Not thread-safe.

    Tell it what happens and ask :meth:`decide` after; what it decided counts as done.
    """

    def __init__(
        self,
        replicas: Sequence[ReplicaSpec],
        *,
        policy: Policy | None = None,
        limits: DispatchLimits | None = None,
        workflows: WorkflowTable | None = None,
        lengths: OutputLengths | None = None,
    ) -> None:
        """``workflows`` may be shared by the dispatchers of several models, whose calls then make one workflow."""
        self.limits = limits or DispatchLimits()
        self.policy: Policy = policy or UrgencyPolicy()
        self.replicas = {spec.name: Replica(spec, index) for index, spec in enumerate(replicas)}
        self._adapters = frozenset[str]().union(*(spec.adapters for spec in replicas))
        self.workflows = WorkflowTable() if workflows is None else workflows
        self.estimates = Estimates(list(self.replicas.values()), lengths or OutputLengths())
        self.tenants = TenantShares()
        self.queue = WaitingQueue()
        self.calls: dict[str, DispatchedCall] = {}
        self._triaged = self._out_since = -math.inf
        self._credit = 0.0
        self._given_up: list[str] = []
        self._rebalancer = Rebalancer(self.replicas, self.calls, self.limits)

    # What happens.

    def submit(self, call: Call, now: float) -> None:
        """Queue a call; raises :class:`OverloadedError`, :class:`NoReplicaError` or ``UnknownAdapterError``."""
        self._admit(call)
        tokens = self.estimates.tokens(call)
        own = self.estimates.demand(call, tokens)
        workflow = self.workflows.begin_call(call.call_id, call.place, own, now)
        self.tenants.begin(call.place.tenant)
        entry = self.calls[call.call_id] = DispatchedCall(call, workflow, tokens, own, pinned=call.pinned)
        self._enqueue(entry, now)

    def progressed(self, call_id: str, replica: str, tokens: int, now: float) -> list[Decision]:
        """Note that an answer has ``tokens`` by now; the first copy that has any wins over the others."""
        entry = self.calls.get(call_id)
        resident = self.replicas[replica].residents.get(call_id)
        if entry is None or resident is None:
            return []
        if tokens >= resident.expected_tokens:
            resident.expected_tokens = self.estimates.tokens(entry.call, tokens)
        self.replicas[replica].progressed(resident, tokens, now)
        return self._withdraw(entry, keep=self.replicas[replica]) if tokens else []

    def ended(self, call_id: str, replica: str, usage: Usage, now: float) -> list[Decision]:
        """Note an answer's end, and learn from it."""
        entry = self.calls.pop(call_id, None)
        if entry is None:
            return []
        decisions = self._withdraw(entry, keep=None, but=replica)
        self.queue.remove(call_id)
        took = self.estimates.learn(entry.call, self.replicas[replica], usage)
        self.workflows.end_call(entry.workflow, call_id, took, now)
        self.tenants.serve(entry.call.place.tenant, took.work)
        self.tenants.end(entry.call.place.tenant)
        return decisions

    def aborted(self, call_id: str, now: float) -> list[Decision]:
        """Forget a call that nobody wants any more."""
        entry = self.calls.pop(call_id, None)
        if entry is None:
            return []
        self.queue.remove(call_id)
        self.workflows.drop_call(entry.workflow, call_id, now)
        self.tenants.end(entry.call.place.tenant)
        return self._withdraw(entry, keep=None)

    def lost(self, call_id: str, replica: str, now: float) -> bool:
        """Note that a replica failed a call; returns whether it waits again, since no other copy of it runs."""
        entry, failed = self.calls.get(call_id), self.replicas[replica]
        failed.leave(call_id)
        if entry is None or failed not in entry.at:
            return False
        entry.at.remove(failed)
        if entry.at:
            return False
        self._enqueue(entry, now)
        return True

    def reschedule(self, call_id: str, deadline: float, now: float) -> list[Decision]:
        """Move the deadline of a call's workflow."""
        entry = self.calls.get(call_id)
        if entry is None:
            return []
        entry.workflow.deadline = entry.workflow.due = deadline
        if entry.call.pinned is not None:
            entry.call.pinned = entry.pinned = min(deadline, entry.call.arrived + LONGEST_WAIT_SECONDS)
        return self._rekey(entry.workflow, now)

    def replica_down(self, name: str, now: float) -> None:
        """Give a replica no more calls; those that it has are lost or end as they may."""
        self.replicas[name].up = False
        if not any(replica.up for replica in self.replicas.values()):
            self._out_since = now
        self.estimates.refresh()

    def replica_up(self, name: str, _now: float) -> None:
        """Give a replica calls again."""
        self.replicas[name].up = True
        self.estimates.refresh()

    def observe(self, replica: str, iterations: Sequence[Iteration]) -> None:
        """Learn how fast a replica is."""
        self.replicas[replica].observe(iterations)
        self.estimates.refresh()

    def workflow_ended(self, workflow: str, now: float) -> None:
        """Note that a workflow needs nothing more."""
        self.workflows.end(workflow, now)

    # What to do.

    def decide(self, now: float) -> list[Decision]:
        """Return what is to be done now."""
        self.workflows.sweep(now)
        due = now >= self._triaged + self._pause()
        decisions = self._triage(now) if due else []
        decisions += self._place(now)
        if due and not self.queue:
            decisions += self._rebalancer.rebalance(now)
        return decisions + self._fail_without_replicas(now)

    def next_wake(self, now: float) -> float | None:
        """Return when to ask again although nothing happened; ``None`` if there is no need."""
        if not self.calls:
            return None
        looks = [self._triaged + self._pause()]
        if self.queue:
            passed = (replica.passed_over + self.limits.reconsider for replica in self.replicas.values())
            looks += [look for look in passed if look > now]
        next_look = min((look for look in looks if math.isfinite(look)), default=None)
        return None if next_look is None else max(now, next_look)

    def _pause(self) -> float:
        """Return the seconds between two looks at the whole; many workflows take longer to look at."""
        every = self.limits.triage
        return math.inf if every is None else every * max(1.0, len(self.workflows) / _WORKFLOWS_A_TRIAGE)

    def facts(self, entry: DispatchedCall) -> CallFacts:
        """Return what the policy may know of a call."""
        call, workflow = entry.call, entry.workflow
        after = self.workflows.after(workflow)
        return CallFacts(
            arrived=call.arrived,
            workflow_arrived=workflow.arrived,
            deadline=workflow.due,
            path=entry.own.path + after.path,
            work=entry.own.work + after.work,
            own=entry.own.path,
            attained=workflow.attained,
            lead=self.tenants.lead(call.place.tenant),
            demoted=workflow.demoted,
            prompt_tokens=call.prompt_tokens,
            expected_tokens=entry.tokens,
        )

    def _admit(self, call: Call) -> None:
        limits = self.limits
        check_adapter(call.adapter, self._adapters, "the model")
        if not any(replica.permits(call) for replica in self.replicas.values()):
            raise NoReplicaError(f"none of {len(self.replicas)} replicas may or can serve call {call.call_id!r}.")
        if len(self.queue) >= limits.queue:
            retry = max(self._work(call) * len(self.queue) / self.estimates.speed / 10, 1.0)
            raise OverloadedError(f"{len(self.queue)} calls wait, the most that may.", retry_after=retry)
        open_calls = self.tenants.open(call.place.tenant)
        if limits.tenant and open_calls >= limits.tenant:
            message = f"tenant {call.place.tenant!r} has {open_calls} calls in flight, the most it may."
            raise OverloadedError(message, retry_after=max(self._work(call), 1.0))

    def _work(self, call: Call) -> float:
        return self.estimates.demand(call, self.estimates.tokens(call)).work

    def _enqueue(self, entry: DispatchedCall, now: float) -> None:
        entry.key = self._key(entry, self.facts(entry), now)
        self.queue.push(entry.call.call_id, entry.key)

    def _key(self, entry: DispatchedCall, facts: CallFacts, now: float) -> float:
        return self.policy.key(facts, now) if entry.pinned is None else entry.pinned

    def _withdraw(self, entry: DispatchedCall, *, keep: Replica | None, but: str = "") -> list[Decision]:
        """Take a call from its replicas, all but ``keep``; ``but`` has ended it and need not be told."""
        decisions: list[Decision] = []
        for replica in [replica for replica in entry.at if replica is not keep]:
            replica.leave(entry.call.call_id)
            entry.at.remove(replica)
            if replica.spec.name != but:
                decisions.append(Cancel(entry.call.call_id, replica.spec.name))
        return decisions

    def _place(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        index = 0
        while index < len(self.queue) and self._has_room(self.queue[index].key, now):
            place = self.queue[index]
            entry = self.calls[place.call_id]
            facts = self.facts(entry)
            entry.key = self._key(entry, facts, now)
            if entry.key > place.key + self.limits.rekey_margin:  # κ has moved since the call was queued
                self.queue.push(place.call_id, entry.key)
                continue
            chosen = self._choose(entry, facts, index, now)
            if chosen is None:
                # The further back a call, the longer it would wait for the replica that this one waits for.
                index = index + 1 if index < self.limits.lookahead else 2 * index
                continue
            decisions.append(self._start(entry, *chosen, now))
            decisions += self._start_reserved(facts, now)
        if index >= len(self.queue) > 0:
            for replica in self.replicas.values():
                replica.passed_over = now if replica.free > 0 else -math.inf
        return decisions

    def _has_room(self, key: float, now: float) -> bool:
        """Whether a call may be started; a free slot that nobody wanted a moment ago does not count."""
        since = now - self.limits.reconsider
        return self.policy.early or any(
            replica.up and (replica.passed_over <= since if replica.free > 0 else self._displaces(replica, key, now))
            for replica in self.replicas.values()
        )

    def _displaces(self, replica: Replica, key: float, now: float) -> bool:
        spec, held = replica.spec, len(replica.residents)
        return (
            spec.preemptive
            and spec.slots <= held < spec.slots * self.limits.overcommit
            and key < replica.least_urgent() - self.limits.preemption_margin
            and replica.wait(now) > self.limits.preemption_wait
        )

    def _choose(self, entry: DispatchedCall, facts: CallFacts, ahead: int, now: float) -> tuple[Replica, Option] | None:
        """Return the best replica for a call that ``ahead`` others go before; ``None`` if that is worth a wait."""
        best: tuple[float, Replica, Option, bool] | None = None
        for replica in self.replicas.values():
            if not (replica.up and replica.permits(entry.call)):
                continue
            displaces = not self.policy.early and self._displaces(replica, entry.key, now)
            expected = self.estimates.at(entry.call, replica, entry.tokens)
            share = int(ahead * self.estimates.part(replica))
            option = replica.option(entry.call, entry.key, expected, now, ahead=share, displaces=displaces)
            cost = self.policy.cost(facts, option, now)
            if best is None or cost < best[0]:
                best = cost, replica, option, displaces or replica.free > 0
        if best is None or not (best[3] or self.policy.early):
            return None
        return best[1], best[2]

    def _start(self, entry: DispatchedCall, replica: Replica, option: Option, now: float) -> Start:
        self.queue.remove(entry.call.call_id)
        replica.take(entry.call, entry.key, entry.tokens, option, now)
        entry.at.append(replica)
        self._rebalancer.count(entry.tokens)
        return Start(entry.call.call_id, replica.spec.name, entry.key)

    def _start_reserved(self, started: CallFacts, now: float) -> list[Decision]:
        """Give what was given up its share of the starts, the oldest first."""
        if started.demoted or not self._given_up:
            return []
        self._credit += self.limits.reserved
        if self._credit < 1.0:
            return []
        self._credit -= 1.0
        oldest = next((call_id for call_id in self._given_up if call_id in self.queue), None)
        if oldest is None:
            return []
        entry = self.calls[oldest]
        entry.pinned = entry.key = now
        chosen = self._choose(entry, self.facts(entry), 0, now)
        if chosen is None:
            self._enqueue(entry, now)
            return []
        return [self._start(entry, *chosen, now)]

    def _triage(self, now: float) -> list[Decision]:
        """Decide anew who can be on time, and move κ of those for whom that changed."""
        self._triaged = now
        jobs = list(self._jobs(now))
        late = late_jobs(jobs, self.estimates.speed)
        decisions: list[Decision] = []
        for job in jobs:
            workflow = job.workflow
            changed = workflow.postpone(job.path, now) if job in late else workflow.restore()
            decisions += self._rekey(workflow, now) if changed else []
        given_up = (call_id for workflow in self.workflows if workflow.demoted for call_id in workflow.open)
        waiting = (call_id for call_id in given_up if call_id in self.queue)
        self._given_up = [call_id for call_id in waiting if self.calls[call_id].call.pinned is None]
        return decisions

    def _jobs(self, now: float) -> Iterator[Job]:
        for workflow in self.workflows:
            if math.isfinite(workflow.deadline) and workflow.open:
                opened = [self._left(call_id, demand) for call_id, demand in workflow.open.items()]
                left = self.workflows.remaining(workflow, opened)
                yield Job(workflow, left.path, left.work, workflow.deadline - now)

    def _left(self, call_id: str, demand: Demand) -> Demand:
        """Return what is left of an open call; one of another model's dispatcher counts whole."""
        entry = self.calls.get(call_id)
        residents = [] if entry is None else [replica.residents[call_id] for replica in entry.at]
        done = max((resident.generated / resident.expected_tokens for resident in residents), default=0.0)
        return Demand(demand.path * (1 - min(done, 1.0)), demand.work * (1 - min(done, 1.0)))

    def _rekey(self, workflow: Workflow, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for call_id in workflow.open:
            entry = self.calls.get(call_id)
            if entry is None:
                continue
            entry.key = self._key(entry, self.facts(entry), now)
            if call_id in self.queue:
                self.queue.push(call_id, entry.key)
            decisions.extend(
                Rekey(call_id, replica.spec.name, entry.key)
                for replica in entry.at
                if replica.rekey(call_id, entry.key, self.limits.rekey_margin)
            )
        return decisions

    def _fail_without_replicas(self, now: float) -> list[Decision]:
        if any(replica.up for replica in self.replicas.values()) or now < self._out_since + self.limits.outage:
            return []
        waiting = [self.calls[call_id] for call_id in self.queue.calls()]
        error = NoReplicaError(
            f"no replica has answered for {now - self._out_since:.0f} s.",
            remedy="Start a replica again, or raise `dispatch.outage`.",
        )
        for entry in waiting:
            self.aborted(entry.call.call_id, now)
        return [Fail(entry.call.call_id, error) for entry in waiting]
