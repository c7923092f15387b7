"""The scheduler driven as a simulator drives it: without a model, with random answers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys.blackboard.labels import PUBLIC, Readers
from agentsys.serving.engine_errors import RequestTooLongError
from agentsys.serving.torch_engine.block_pool import domain_digest
from agentsys.serving.torch_engine.scheduler import Scheduler, SchedulerLimits, Work
from agentsys.serving.torch_engine.sequence import SequenceState

LIMITS = SchedulerLimits(num_blocks=12, block_size=4, context_length=40, max_batch=3, max_step_tokens=10)


def sequence(
    name: str,
    length: int,
    *,
    new: int = 4,
    urgency: float = 0.0,
    arrival: int = 0,
    readers: Readers = PUBLIC,
    seed: int = 0,
) -> SequenceState:
    tokens = [seed + index for index in range(length)]
    return SequenceState(name, tokens, length, length + new, urgency, arrival, domain_digest(readers))


def names(works: list[Work]) -> list[str]:
    return [work.sequence.request_id for work in works]


def run_step(scheduler: Scheduler, works: list[Work], accepted: int = 0) -> list[str]:
    """Commit a step in which every completing work gets ``accepted`` drafted tokens and one more; return the ended."""
    ended = []
    for work in works:
        new = [*work.draft[:accepted], 7][: work.sequence.limit - len(work.sequence.tokens)] if work.completes else []
        scheduler.commit(work, new)
        if len(work.sequence.tokens) >= work.sequence.limit:
            scheduler.remove(work.sequence)
            ended.append(work.sequence.request_id)
    return ended


def drain(scheduler: Scheduler, most: int = 500) -> list[str]:
    ended: list[str] = []
    for _ in range(most):
        works = scheduler.schedule()
        if not works:
            return ended
        ended += run_step(scheduler, works)
    raise AssertionError("the scheduler never came to an end")


def test_smaller_urgency_runs_first_and_ties_go_by_arrival() -> None:
    scheduler = Scheduler(SchedulerLimits(12, 4, 40, max_batch=1, max_step_tokens=10))
    for name, urgency, arrival in [("late", 5.0, 0), ("second", 1.0, 2), ("first", 1.0, 1)]:
        scheduler.add(sequence(name, 3, urgency=urgency, arrival=arrival))
    assert drain(scheduler) == ["first", "second", "late"]


def test_a_more_urgent_arrival_takes_the_slot_and_the_other_resumes_where_it_was() -> None:
    scheduler = Scheduler(SchedulerLimits(12, 4, 40, max_batch=1, max_step_tokens=10))
    scheduler.add(sequence("slow", 6, urgency=9.0, arrival=0))
    run_step(scheduler, scheduler.schedule())
    scheduler.add(sequence("fast", 3, urgency=1.0, arrival=1))
    assert names(scheduler.schedule()) == ["fast"]
    assert scheduler.preemptions == 1
    slow = scheduler.get("slow")
    assert slow is not None and slow.computed == 6 and slow.preemptions == 1


def test_a_more_urgent_sequence_takes_the_blocks_of_the_least_urgent() -> None:
    scheduler = Scheduler(
        SchedulerLimits(num_blocks=4, block_size=4, context_length=16, max_batch=2, max_step_tokens=16)
    )
    scheduler.add(sequence("slow", 12, urgency=9.0))
    run_step(scheduler, scheduler.schedule())
    scheduler.add(sequence("fast", 9, urgency=1.0, arrival=1, seed=100))
    works = scheduler.schedule()
    assert names(works)[0] == "fast"
    slow = scheduler.get("slow")
    assert slow is not None
    assert len(slow.blocks) + len(works[0].sequence.blocks) <= 4
    assert drain(scheduler)[0] == "fast"


def test_rekeying_changes_the_order() -> None:
    scheduler = Scheduler(SchedulerLimits(12, 4, 40, max_batch=1, max_step_tokens=10))
    scheduler.add(sequence("a", 3, urgency=1.0))
    scheduler.add(sequence("b", 3, urgency=2.0, arrival=1))
    waiting = scheduler.get("b")
    assert waiting is not None
    waiting.urgency = 0.5
    assert names(scheduler.schedule()) == ["b"]


def test_decodes_keep_their_token_beside_a_long_urgent_prefill() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("decode", 2, urgency=9.0))
    run_step(scheduler, scheduler.schedule())
    scheduler.add(sequence("prefill", 30, urgency=1.0, arrival=1, seed=50))
    works = {work.sequence.request_id: work.count for work in scheduler.schedule()}
    assert works == {"prefill": 9, "decode": 1}


def test_a_prefix_is_reused_by_the_same_readers_only() -> None:
    scheduler = Scheduler(LIMITS)
    ann, bob = Readers.of("user:ann"), Readers.of("user:bob")
    scheduler.add(sequence("one", 9, readers=ann))
    drain(scheduler)
    for name, readers, cached in [("bob", bob, 0), ("public", PUBLIC, 0), ("ann", ann, 8)]:
        asked = sequence(name, 9, readers=readers)
        scheduler.add(asked)
        scheduler.schedule()
        assert asked.cached_tokens == cached
        scheduler.remove(asked)


def test_the_last_prompt_token_is_computed_even_if_everything_is_cached() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("one", 8))
    drain(scheduler)
    again = sequence("again", 8)
    scheduler.add(again)
    (work,) = scheduler.schedule()
    assert (work.start, work.count) == (4, 4)


def test_what_can_never_run_is_refused() -> None:
    scheduler = Scheduler(LIMITS)
    with pytest.raises(RequestTooLongError, match="40 tokens"):
        scheduler.add(sequence("long", 40))
    with pytest.raises(RequestTooLongError, match="16 tokens"):
        Scheduler(SchedulerLimits(4, 4, 400)).add(sequence("large", 16))


def test_limits_that_cannot_hold_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="max_batch"):
        SchedulerLimits(4, 4, 40, max_batch=8, max_step_tokens=4)


def test_drafts_stay_inside_budget_limit_and_free_blocks() -> None:
    scheduler = Scheduler(
        SchedulerLimits(num_blocks=2, block_size=4, context_length=40, max_batch=1, max_step_tokens=20)
    )
    scheduler.add(sequence("a", 3, new=20))
    (work,) = scheduler.schedule(lambda _sequence, _rows, limit: range(limit))
    assert len(work.draft) == 4, "five of the eight places are left, and one new token comes without a draft"


@dataclass
class Simulation:
    """Random arrivals, aborts, re-keys and answers; checks every step."""

    chance: random.Random
    scheduler: Scheduler = field(default_factory=lambda: Scheduler(LIMITS))
    alive: dict[str, SequenceState] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    arrivals: int = 0

    def arrive(self) -> None:
        name = f"r{self.arrivals}"
        readers = self.chance.choice([PUBLIC, Readers.of("a"), Readers.of("b")])
        new = sequence(
            name,
            self.chance.randint(1, 30),
            new=self.chance.randint(1, 9),
            urgency=self.chance.choice([1.0, 2.0, 3.0]),
            arrival=self.arrivals,
            readers=readers,
            seed=self.chance.choice([0, 50]),
        )
        self.arrivals += 1
        self.scheduler.add(new)
        self.alive[name] = new

    def step(self) -> None:
        works = self.scheduler.schedule(self.draft)
        self.check(works)
        for name in run_step(self.scheduler, works, accepted=self.chance.randint(0, 3)):
            del self.alive[name]
            self.finished.add(name)

    def draft(self, _sequence: SequenceState, _rows: int, limit: int) -> list[int]:
        return [7] * self.chance.randint(0, limit + 2)

    def check(self, works: list[Work]) -> None:
        limits, pool = self.scheduler.limits, self.scheduler.pool
        assert len(works) <= limits.max_batch
        assert sum(work.count + len(work.draft) for work in works) <= limits.max_step_tokens
        if self.alive:
            smallest = min(self.alive.values(), key=lambda item: item.key)
            assert works and works[0].sequence is smallest, "the smallest key always advances"
        for work in works:
            end = work.start + work.count + len(work.draft)
            assert end <= len(work.sequence.blocks) * limits.block_size
            assert len(work.sequence.tokens) + len(work.draft) + 1 <= work.sequence.limit
        owners: dict[int, set[bytes]] = {}
        for item in self.alive.values():
            assert len(set(item.blocks)) == len(item.blocks)
            for block in item.blocks:
                owners.setdefault(block, set()).add(item.domain)
        assert len(owners) == pool.owned
        assert pool.owned + pool.available == limits.num_blocks
        assert all(len(domains) == 1 for domains in owners.values()), "no block is shared across readers"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), arrivals=st.integers(1, 12))
def test_random_load_keeps_every_invariant_and_comes_to_an_end(seed: int, arrivals: int) -> None:
    simulation = Simulation(random.Random(seed))
    aborted: set[str] = set()
    while simulation.arrivals < arrivals or simulation.alive:
        if simulation.arrivals < arrivals and simulation.chance.random() < 0.5:
            simulation.arrive()
        if simulation.alive and simulation.chance.random() < 0.1:
            name = simulation.chance.choice(sorted(simulation.alive))
            simulation.scheduler.remove(simulation.alive.pop(name))
            aborted.add(name)
        if simulation.alive and simulation.chance.random() < 0.1:
            simulation.alive[simulation.chance.choice(sorted(simulation.alive))].urgency = simulation.chance.random()
        simulation.step()
    assert len(simulation.finished | aborted) == arrivals
    assert simulation.scheduler.pool.owned == 0


def served_under_constant_urgent_load(latest: float, *, urgent: int, slack: float, steps: int) -> bool:
    """Whether an unhurried sequence ends while each step brings urgent ones, due ``slack`` steps later."""
    scheduler = Scheduler(SchedulerLimits(12, 4, 40, max_batch=2, max_step_tokens=4))
    patient = sequence("patient", 6, urgency=math.inf)
    patient.latest = latest
    scheduler.add(patient)
    for now in range(steps):
        for index in range(urgent):
            name = f"{now}-{index}"
            scheduler.add(sequence(name, 2, new=2, urgency=now + slack, arrival=1 + now * urgent + index, seed=now))
        if "patient" in run_step(scheduler, scheduler.schedule()):
            return True
    return False


def test_without_a_latest_key_an_unhurried_sequence_starves() -> None:
    assert not served_under_constant_urgent_load(math.inf, urgent=2, slack=5.0, steps=300)


@settings(max_examples=40, deadline=None)
@given(cap=st.integers(0, 60), urgent=st.integers(1, 3), slack=st.floats(0.0, 20.0))
def test_a_latest_key_ends_starvation(cap: int, urgent: int, slack: float) -> None:
    # Sequences due before it may be queued up when its time comes; each takes at most two steps.
    bound = 3 * urgent * (cap + 2) + 30
    assert served_under_constant_urgent_load(float(cap), urgent=urgent, slack=slack, steps=bound)
