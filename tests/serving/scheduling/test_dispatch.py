"""The dispatcher without clock and engines: what it decides, in cases and in random histories."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.blackboard.labels import PUBLIC, Readers
from agentsys.serving.requests import Usage, WorkflowCall
from agentsys.serving.scheduling.calls import (
    Call,
    Cancel,
    Fail,
    Hedge,
    Move,
    NoReplicaError,
    OverloadedError,
    Rekey,
    ReplicaSpec,
    Start,
)
from agentsys.serving.scheduling.dispatch import DispatchCore
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.lengths import OutputLengths
from agentsys.serving.scheduling.policy import ArrivalPolicy, UrgencyPolicy
from agentsys.serving.scheduling.step_time import StepTime

STEP = StepTime(0.02, 0.0002, 0.002, 0.0)
ANN = Readers.of("user:ann", "model-server:far")


def spec(name: str = "a", slots: int = 1, slower: float = 1.0, **more: Any) -> ReplicaSpec:
    return ReplicaSpec(name, slots, STEP.scaled(slower), **more)


def call(name: str, now: float = 0.0, deadline: float = math.inf, **more: Any) -> Call:
    tenant = more.pop("tenant", "")
    place = WorkflowCall(more.pop("workflow", name), "kind", "stage", tenant, deadline, now)
    return Call(name, place, now, more.pop("prompt", 100), more.pop("most", 100), **more)


def started(decisions: list[Any]) -> list[tuple[str, str]]:
    return [(one.call_id, one.replica) for one in decisions if isinstance(one, Start)]


def test_the_tightest_deadline_goes_first_and_the_rest_wait() -> None:
    core = DispatchCore([spec()], policy=UrgencyPolicy(longest_wait=1000))
    for name, deadline in (("late", 90.0), ("soon", 30.0), ("never", math.inf)):
        core.submit(call(name, deadline=deadline), 0.0)
    assert started(core.decide(0.0)) == [("soon", "a")]
    core.ended("soon", "a", Usage(100, 0, 50), 1.0)
    assert started(core.decide(1.0)) == [("late", "a")]


def test_a_long_rest_of_the_workflow_makes_a_call_more_urgent_than_its_deadline() -> None:
    core = DispatchCore([spec()])
    for number in range(5):
        for stage, begins in (("first", 0.0), ("second", 30.0)):
            place = WorkflowCall(f"w{number}", "long", stage, arrived=0.0)
            core.submit(Call(f"{number}{stage}", place, begins, 100, 100), begins)
            core.decide(begins)
            core.ended(f"{number}{stage}", "a", Usage(100, 0, 80), begins + 5)
        core.workflow_ended(f"w{number}", 40.0)
    core.submit(call("blocker", 100.0), 100.0)
    core.decide(100.0)
    core.submit(Call("short", WorkflowCall("s", "short", "only", "", 150.0, 100.0), 100.0, 100, 100), 100.0)
    core.submit(Call("long", WorkflowCall("l", "long", "first", "", 160.0, 100.0), 100.0, 100, 100), 100.0)
    core.ended("blocker", "a", Usage(100, 0, 10), 101.0)
    assert started(core.decide(101.0)) == [("long", "a")]


def test_a_preemptive_replica_gets_an_urgent_call_beyond_its_slots() -> None:
    for preemptive in (True, False):
        core = DispatchCore([spec(slots=2, preemptive=preemptive)])
        for name in ("x", "y"):
            core.submit(call(name, deadline=80.0), 0.0)
        core.decide(0.0)
        core.submit(call("urgent", deadline=20.0), 0.5)
        assert started(core.decide(0.5)) == ([("urgent", "a")] if preemptive else [])


def test_a_call_waits_for_the_fast_replica_if_that_is_sooner() -> None:
    core = DispatchCore([spec("fast", 1), spec("slow", 1, slower=20.0)], policy=UrgencyPolicy(harm=0.0))
    core.submit(call("x"), 0.0)
    core.submit(call("y"), 0.0)
    assert started(core.decide(0.0)) == [("x", "fast")]
    core.ended("x", "fast", Usage(100, 0, 50), 2.0)
    assert started(core.decide(2.0)) == [("y", "fast")]


def test_a_call_goes_only_where_its_readers_may_learn_it() -> None:
    far = spec("far", audience=Readers.of("model-server:far"))
    core = DispatchCore([far, spec("near", slower=50.0)])
    core.submit(call("private", readers=Readers.of("user:ann")), 0.0)
    core.submit(call("shared", readers=ANN), 0.0)
    core.submit(call("public", readers=PUBLIC), 0.0)
    assert set(started(core.decide(0.0))) == {("private", "near"), ("shared", "far")}
    with pytest.raises(NoReplicaError, match="may or can serve"):
        DispatchCore([far]).submit(call("private", readers=Readers.of("user:ann")), 0.0)


def test_too_many_calls_are_refused_with_a_time_to_come_back() -> None:
    core = DispatchCore([spec()], limits=DispatchLimits(queue=3, tenant=2))
    core.submit(call("a1", tenant="a"), 0.0)
    core.submit(call("a2", tenant="a"), 0.0)
    with pytest.raises(OverloadedError, match="tenant 'a'") as refused:
        core.submit(call("a3", tenant="a"), 0.0)
    assert refused.value.retry_after > 0
    core.submit(call("b1", tenant="b"), 0.0)
    with pytest.raises(OverloadedError, match="3 calls wait"):
        core.submit(call("b2", tenant="b"), 0.0)
    core.aborted("a1", 0.0)
    core.submit(call("a4", tenant="a"), 0.0)


def test_hopeless_work_goes_last_and_still_gets_its_share() -> None:
    core = DispatchCore([spec(slots=1)], limits=DispatchLimits(reserved=0.25))
    core.submit(call("hopeless", deadline=0.1), 0.0)
    for number in range(8):
        core.submit(call(f"c{number}", deadline=4.0 + 2 * number), 0.0)
    order = []
    for now in range(9):
        (chosen,) = started(core.decide(float(now)))
        order.append(chosen[0])
        core.ended(chosen[0], "a", Usage(100, 0, 10), now + 0.9)
    assert 1 <= order.index("hopeless") <= 5
    assert order[0] == "c0"


def test_a_lost_call_waits_again_and_an_idle_replica_takes_over() -> None:
    core = DispatchCore([spec("a"), spec("b", slower=3.0)])
    core.submit(call("x"), 0.0)
    assert started(core.decide(0.0)) == [("x", "a")]
    core.replica_down("a", 1.0)
    assert core.lost("x", "a", 1.0)
    assert started(core.decide(1.0)) == [("x", "b")]
    assert not core.lost("x", "a", 1.0)


def test_calls_fail_once_no_replica_has_answered_for_long() -> None:
    core = DispatchCore([spec()], limits=DispatchLimits(outage=10.0))
    core.submit(call("x"), 0.0)
    core.replica_down("a", 0.0)
    assert core.decide(5.0) == []
    (failed,) = core.decide(10.5)
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, NoReplicaError)
    assert not core.calls


def test_a_straggler_gets_a_second_copy_and_the_first_token_decides() -> None:
    core = DispatchCore([spec("a"), spec("b")])
    core.submit(call("x"), 0.0)
    core.decide(0.0)
    (hedge,) = core.decide(5.0)
    assert isinstance(hedge, Hedge)
    assert core.progressed("x", hedge.replica, 1, 5.5) == [Cancel("x", "a")]
    assert core.ended("x", hedge.replica, Usage(100, 0, 20), 6.0) == []
    assert not any(replica.residents for replica in core.replicas.values())


def test_a_paused_call_moves_to_an_idle_replica() -> None:
    fast, slow = spec("a", 1, preemptive=True, rekeys=True), spec("b", 1)
    lengths = OutputLengths()
    for _ in range(50):
        lengths.add(("kind", "stage"), 400)
    core = DispatchCore([fast, slow], lengths=lengths)
    core.submit(call("other", deadline=300.0, most=400), 0.0)
    core.submit(call("x", deadline=300.0, most=400), 0.0)
    core.decide(0.0)
    held = next(name for name in ("other", "x") if name in core.replicas["a"].residents)
    core.submit(call("urgent", 1.0, deadline=30.0, most=400), 1.0)
    assert started(core.decide(1.0)) == [("urgent", "a")]
    core.progressed(held, "a", 1, 1.0)
    core.progressed("urgent", "a", 1, 1.0)
    left = "x" if held == "other" else "other"
    core.ended(left, "b", Usage(100, 0, 10), 1.5)
    moved = [one for one in core.decide(2.0) if isinstance(one, Move)]
    assert [(one.call_id, one.source, one.target) for one in moved] == [(held, "a", "b")]


def test_replicas_hear_of_a_new_urgency_when_a_workflow_is_given_up() -> None:
    core = DispatchCore([spec(preemptive=True, rekeys=True)])
    core.submit(call("x", deadline=30.0), 0.0)
    core.decide(0.0)
    rekeys = [one for one in core.decide(29.9) if isinstance(one, Rekey)]
    assert [one.call_id for one in rekeys] == ["x"]
    assert rekeys[0].urgency == pytest.approx(29.9 + 30.0, abs=3.0)


def test_a_tenant_with_many_calls_does_not_push_another_back() -> None:
    core = DispatchCore([spec(slots=1)], policy=UrgencyPolicy(fairness=50.0), limits=DispatchLimits(triage=None))
    for number in range(20):
        core.submit(call(f"many{number}", deadline=400.0, tenant="many"), 0.0)
    for number in range(4):
        core.submit(call(f"few{number}", deadline=401.0, tenant="few"), 0.0)
    order = []
    for now in range(10):
        (chosen,) = started(core.decide(float(now)))
        order.append(chosen[0])
        core.ended(chosen[0], "a", Usage(100, 0, 50), now + 0.9)
    assert Counter(name.rstrip("0123456789") for name in order)["few"] == 4


class History:
    """A random history, with what must hold at every moment."""

    def __init__(self, seed: int, early: bool) -> None:
        self.draw = random.Random(seed)
        limits = DispatchLimits(queue=12, overcommit=2.0)
        policy = ArrivalPolicy() if early else UrgencyPolicy(longest_wait=60)
        specs = [
            spec("a", 2, preemptive=True, rekeys=True),
            spec("b", 1, slower=2.0, audience=Readers.of("model-server:far"), adapters=frozenset({"law"})),
            spec("c", 3, slower=3.0, adapters=frozenset({"law", "sea"})),
        ]
        self.core, self.early = DispatchCore(specs, policy=policy, limits=limits), early
        self.copies: dict[str, set[str]] = {}
        self.ended: Counter[str] = Counter()
        self.submitted: set[str] = set()
        self.tokens: Counter[str] = Counter()
        self.now = 0.0

    def take(self, decisions: list[Any]) -> None:
        for one in decisions:
            if isinstance(one, Start | Hedge):
                held = self.copies.setdefault(one.call_id, set())
                assert one.replica not in held
                assert len(held) == (1 if isinstance(one, Hedge) else 0)
                held.add(one.replica)
            elif isinstance(one, Cancel):
                self.copies.get(one.call_id, set()).discard(one.replica)
            elif isinstance(one, Move):
                self.copies[one.call_id].remove(one.source)
                self.copies[one.call_id].add(one.target)
            elif isinstance(one, Fail):
                self.ended[one.call_id] += 1
        self.check()

    def check(self) -> None:
        for name, replica in self.core.replicas.items():
            assert set(replica.residents) == {one for one, held in self.copies.items() if name in held}
            most = replica.spec.slots * (2.0 if replica.spec.preemptive else 1.0)
            assert self.early or len(replica.residents) <= most
            for resident in replica.residents.values():
                assert replica.permits(resident.call)
        for name in self.core.queue.calls():
            assert not self.copies.get(name)
        open_calls = {name for name in self.submitted if not self.ended[name]}
        assert open_calls == set(self.core.calls)
        assert all(bool(self.copies.get(name)) != (name in self.core.queue) for name in open_calls)

    def step(self) -> None:
        self.now += self.draw.expovariate(2.0)
        action = self.draw.choice(["submit", "submit", "progress", "end", "end", "abort", "lose", "down", "up"])
        getattr(self, action)()
        self.take(self.core.decide(self.now))

    def submit(self) -> None:
        number = len(self.submitted)
        readers = self.draw.choice([PUBLIC, Readers.of("user:ann")])
        deadline = self.draw.choice([math.inf, self.now + self.draw.uniform(0.1, 50)])
        workflow = f"w{self.draw.randint(0, 5)}"
        adapter = self.draw.choice([None, None, "law", "sea"])
        place = {"workflow": workflow, "tenant": workflow[-1]}
        one = call(f"c{number}", self.now, deadline, readers=readers, adapter=adapter, **place)
        try:
            self.core.submit(one, self.now)
        except OverloadedError:
            return
        self.submitted.add(one.call_id)

    def running(self) -> tuple[str, str] | None:
        pairs = sorted((name, replica) for name, held in self.copies.items() for replica in held)
        return self.draw.choice(pairs) if pairs else None

    def progress(self) -> None:
        if pair := self.running():
            self.tokens[pair[0]] += self.draw.randint(0, 30)
            self.take(self.core.progressed(*pair, self.tokens[pair[0]], self.now))

    def end(self) -> None:
        if pair := self.running():
            name, replica = pair
            self.copies[name].discard(replica)
            self.ended[name] += 1
            self.take(self.core.ended(name, replica, Usage(100, 10, self.tokens[name] + 1), self.now))

    def abort(self) -> None:
        open_calls = sorted(name for name in self.submitted if not self.ended[name])
        if open_calls:
            name = self.draw.choice(open_calls)
            self.ended[name] += 1
            self.take(self.core.aborted(name, self.now))

    def lose(self) -> None:
        if pair := self.running():
            self.copies[pair[0]].discard(pair[1])
            assert self.core.lost(*pair, self.now) == (not self.copies[pair[0]])

    def down(self) -> None:
        name = self.draw.choice("abc")
        self.core.replica_down(name, self.now)
        for call_id in list(self.core.replicas[name].residents):
            self.copies[call_id].discard(name)
            self.core.lost(call_id, name, self.now)

    def up(self) -> None:
        for name in "abc":
            self.core.replica_up(name, self.now)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_call_is_lost_doubled_or_misplaced(seed: int, early: bool) -> None:
    history = History(seed, early)
    for _ in range(80):
        history.step()
    assert max(history.ended.values(), default=1) == 1
    history.up()
    for _ in range(500):
        history.now += 1.0
        history.take(history.core.decide(history.now))
        if not history.core.calls:
            break
        history.end()
    assert not history.core.calls
    assert not history.core.queue.calls()


def test_the_checker_notices_a_call_that_a_dispatcher_forgot() -> None:
    history = History(1, early=False)
    history.submit()
    history.core.queue.remove("c0")
    with pytest.raises(AssertionError):
        history.check()


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_nobody_waits_longer_than_the_cap_and_what_was_due_before(seed: int) -> None:
    """Urgent work comes without end, more than there is room for; what has no deadline is served all the same."""
    draw, cap = random.Random(seed), 20.0
    core = DispatchCore([spec(slots=1)], policy=UrgencyPolicy(longest_wait=cap), limits=DispatchLimits(reserved=0.0))
    core.submit(call("patient"), 0.0)
    core.submit(call("running", deadline=1.0), 0.0)
    now, number = 0.0, 0
    running = started(core.decide(now))[0][0]
    while running != "patient":
        for _ in range(2):
            number += 1
            core.submit(call(f"u{number}", now, deadline=now + draw.uniform(3, 10)), now)
        now += 1.0
        core.ended(running, "a", Usage(100, 0, 20), now)
        running = started(core.decide(now))[0][0]
        assert now < 3 * cap, "the call without a deadline starves"


@pytest.mark.parametrize("deadline", [math.inf, 9_000.0])
def test_a_workflow_that_has_gone_on_for_long_is_no_more_urgent_for_that(deadline: float) -> None:
    core = DispatchCore([spec()])
    hours_old = WorkflowCall("old", "kind", "stage", deadline=deadline, arrived=1.0)
    core.submit(Call("old", hours_old, 7_000.0, 100, 100), 7_000.0)
    core.submit(call("soon", 7_000.0, deadline=7_060.0), 7_000.0)
    assert started(core.decide(7_000.0)) == [("soon", "a")]


def test_a_slot_that_nobody_wants_is_offered_again_a_moment_later() -> None:
    core = DispatchCore([spec("fast"), spec("slow", slower=20.0)], policy=UrgencyPolicy(longest_wait=10_000))
    core.submit(call("x"), 0.0)
    core.decide(0.0)
    core.submit(call("y", 1.0, deadline=10.0), 1.0)
    assert started(core.decide(1.0)) == []
    wake = core.next_wake(1.0)
    assert wake is not None
    assert 1.0 < wake <= 1.0 + core.limits.reconsider + 1e-9
    core.replica_down("fast", 1.01)
    assert core.lost("x", "fast", 1.01)
    assert len(started(core.decide(wake))) == 1


def test_a_moved_deadline_moves_its_calls_at_once() -> None:
    core = DispatchCore([spec(rekeys=True)])
    for name, deadline in (("running", 400.0), ("a", 300.0), ("b", 310.0)):
        core.submit(call(name, deadline=deadline), 0.0)
        core.decide(0.0)
    assert core.reschedule("b", 200.0, 0.0) == []
    assert core.queue.calls() == ["b", "a"]
    (rekey,) = core.reschedule("running", 350.0, 0.0)
    assert isinstance(rekey, Rekey)
    assert rekey.urgency == pytest.approx(350.0, abs=5.0)


def test_a_deadline_that_moves_by_little_again_and_again_is_told_in_time() -> None:
    core = DispatchCore([spec(rekeys=True)])
    core.submit(call("x", deadline=400.0), 0.0)
    (begun,) = core.decide(0.0)
    assert isinstance(begun, Start)
    known = begun.urgency
    for moves in range(1, 40):
        for told in core.reschedule("x", 400.0 - 0.2 * moves, 0.0):
            assert isinstance(told, Rekey)
            known = told.urgency
        assert abs(known - core.calls["x"].key) <= core.limits.rekey_margin


def test_an_urgency_that_the_caller_names_is_kept_however_late_it_is() -> None:
    core = DispatchCore([spec(slots=1)])
    core.submit(call("running"), 1000.0)
    core.decide(1000.0)
    for name, urgency in (("second", 2.0), ("first", 1.0)):
        core.submit(call(name, 1000.0, deadline=urgency, pinned=urgency), 1000.0)
    core.submit(call("soon", 1000.0, deadline=1004.0), 1000.0)
    core.decide(1001.0)
    assert core.queue.calls() == ["first", "second", "soon"]
    core.reschedule("second", 0.5, 1001.0)
    assert core.queue.calls() == ["second", "first", "soon"]


@pytest.mark.parametrize("bound", ["queue", "lookahead", "overcommit", "tenant", "moves"])
def test_bounds_under_which_nothing_would_be_placed_are_refused(bound: str) -> None:
    with pytest.raises(ValueError, match=f"{bound} must be at least"):
        DispatchLimits(**{bound: -1})
