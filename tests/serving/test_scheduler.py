"""The scheduler driven as a simulator drives it: without a model, step by step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from agentsys.blackboard.labels import PUBLIC, Readers
from agentsys.serving.engine_errors import RequestTooLongError
from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.scheduler import Scheduler
from tests.serving.scheduler_trial import LIMITS, STEP_TIME, drain, names, run_step, sequence

ONE_SLOT = SchedulerLimits(12, 4, 40, max_batch=1, max_step_tokens=10, preemption_quantum=1)


def test_smaller_urgency_runs_first_and_ties_go_by_arrival() -> None:
    scheduler = Scheduler(ONE_SLOT)
    for name, urgency, arrival in [("late", 5.0, 0), ("second", 1.0, 2), ("first", 1.0, 1)]:
        scheduler.add(sequence(name, 3, urgency=urgency, arrival=arrival))
    assert drain(scheduler) == ["first", "second", "late"]


def test_a_more_urgent_arrival_takes_the_slot_and_the_other_resumes_where_it_was() -> None:
    scheduler = Scheduler(ONE_SLOT)
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
    scheduler = Scheduler(ONE_SLOT)
    scheduler.add(sequence("a", 3, urgency=1.0))
    scheduler.add(sequence("b", 3, urgency=2.0, arrival=1))
    scheduler.rekey("b", 0.5)
    scheduler.rekey("unknown", 0.0)
    assert names(scheduler.schedule()) == ["b"]


def test_rekeying_a_running_sequence_lets_another_take_its_slot() -> None:
    scheduler = Scheduler(ONE_SLOT)
    scheduler.add(sequence("a", 3, urgency=1.0))
    scheduler.add(sequence("b", 3, urgency=2.0, arrival=1))
    run_step(scheduler, scheduler.schedule())
    scheduler.rekey("a", 3.0)
    assert names(scheduler.schedule()) == ["b"]
    assert scheduler.phase(scheduler.get("a")) == "paused"


def test_many_rekeys_leave_no_heap_of_stale_entries() -> None:
    scheduler = Scheduler(ONE_SLOT)
    for index in range(10):
        scheduler.add(sequence(str(index), 3, urgency=float(index), arrival=index))
    for turn in range(5000):
        scheduler.rekey(str(turn % 10), float(-turn))
    assert len(scheduler._slots._heap) < 100
    assert drain(scheduler) == [str(index) for index in reversed(range(10))]


def test_a_slot_is_kept_within_the_margin_and_the_quantum() -> None:
    scheduler = Scheduler(replace(ONE_SLOT, preemption_margin=0.5, preemption_quantum=2))
    scheduler.add(sequence("held", 3, new=9, urgency=1.0))
    run_step(scheduler, scheduler.schedule())
    scheduler.add(sequence("near", 3, urgency=0.5, arrival=1))
    scheduler.add(sequence("far", 3, urgency=0.4, arrival=2))
    works = scheduler.schedule()
    assert names(works) == ["held"], "its quantum is two steps"
    run_step(scheduler, works)
    assert names(scheduler.schedule()) == ["far"], "more urgent by more than the margin"
    scheduler.remove(scheduler.get("far"))
    assert names(scheduler.schedule()) == ["near"], "a free slot goes to the smallest key"


def test_a_sequence_is_preempted_so_often_and_then_keeps_its_slot() -> None:
    scheduler = Scheduler(replace(ONE_SLOT, max_preemptions=2))
    scheduler.add(sequence("victim", 3, new=20, urgency=9.0))
    for turn in range(4):
        run_step(scheduler, scheduler.schedule())
        scheduler.add(sequence(f"urgent {turn}", 2, new=1, urgency=1.0, arrival=turn + 1, seed=turn))
        works = scheduler.schedule()
        assert names(works) == [f"urgent {turn}" if turn < 2 else "victim"]
        run_step(scheduler, works)
    assert scheduler.get("victim").displaced == scheduler.preemptions == 2


def test_calls_without_hurry_never_preempt_each_other() -> None:
    scheduler = Scheduler(replace(ONE_SLOT, preemption_margin=0.0))
    scheduler.add(sequence("later", 3, urgency=math.inf, arrival=1))
    run_step(scheduler, scheduler.schedule())
    scheduler.add(sequence("earlier", 3, urgency=math.inf, arrival=0))
    assert names(scheduler.schedule()) == ["later"]


def test_prefills_behind_a_decode_share_a_chunk_and_one_in_front_of_it_does_not() -> None:
    scheduler = Scheduler(replace(LIMITS, max_step_tokens=40, num_blocks=40, max_batch=4, prefill_chunk=6))
    scheduler.add(sequence("decode", 2, urgency=2.0, new=9))
    run_step(scheduler, scheduler.schedule())
    for index, name in enumerate(["patient", "more patient"]):
        scheduler.add(sequence(name, 20, urgency=5.0 + index, arrival=1 + index, seed=100 + 100 * index))
    works = {work.sequence.request_id: work.count for work in scheduler.schedule()}
    assert works == {"decode": 1, "patient": 6}
    scheduler.add(sequence("urgent", 20, urgency=1.0, arrival=3, seed=300))
    works = {work.sequence.request_id: work.count for work in scheduler.schedule()}
    assert works == {"urgent": 20, "decode": 1, "patient": 6}


def paced_load(slowdown: float, urgencies: list[float]) -> Scheduler:
    limits = SchedulerLimits(200, 4, 100, max_batch=8, max_step_tokens=64, slowdown=slowdown)
    scheduler = Scheduler(limits, STEP_TIME)
    for index, urgency in enumerate(urgencies):
        scheduler.add(sequence(str(index), 4, new=20, urgency=urgency, arrival=index, seed=10 * index))
    for _ in range(3):
        run_step(scheduler, scheduler.schedule())
    return scheduler


def test_who_can_wait_makes_room_for_who_cannot() -> None:
    alone, others = STEP_TIME.base + STEP_TIME.per_sequence, STEP_TIME.per_sequence
    fitting = 1 + int(0.5 * alone / others)
    later = [3.0, 20.0, 20.0, 20.0, 20.0]
    assert len(paced_load(1.5, later).schedule(now=0.0)) == fitting < 5
    assert len(paced_load(1.5, [3.0, 4.0, 4.0, 4.0, 20.0]).schedule(now=5.0)) == 4, "their κ has come"
    assert len(paced_load(1.5, later).schedule(now=-50.0)) == 5, "nobody is in a hurry yet"
    assert len(paced_load(1.5, later).schedule(now=25.0)) == 5, "all are late alike"
    assert len(paced_load(1.5, later).schedule()) == 5, "without a clock nobody is known to be late"
    assert len(paced_load(math.inf, later).schedule(now=0.0)) == 5, "switched off"


def test_who_makes_room_keeps_its_slot_and_goes_on_when_its_time_has_come() -> None:
    scheduler = paced_load(1.0, [3.0, 20.0])
    assert names(scheduler.schedule(now=0.0)) == ["0"]
    assert scheduler.holds_slot("1") and scheduler.phase(scheduler.get("1")) == "paused"
    assert names(scheduler.schedule(now=20.0)) == ["0", "1"]
    assert scheduler.preemptions == 0


@pytest.mark.parametrize("slowdown", [1.0, 1.5])
def test_a_saturated_queue_without_deadlines_loses_no_throughput_to_pacing(slowdown: float) -> None:
    """Counted in steps, which are equally full, for a load that always fills the slots."""
    steps: dict[float, list[list[int]]] = {}
    for factor in (math.inf, slowdown):
        limits = SchedulerLimits(200, 4, 100, max_batch=8, max_step_tokens=32, slowdown=factor)
        scheduler = Scheduler(limits, STEP_TIME)
        for index in range(60):
            waiting = sequence(str(index), 12, new=10, urgency=math.inf, arrival=index, seed=20 * index)
            waiting.latest = 600.0
            scheduler.add(waiting)
        now, steps[factor] = 0.0, []
        while works := scheduler.schedule(now=now):
            steps[factor].append([work.count for work in works])
            run_step(scheduler, works)
            now += 0.1
    assert steps[slowdown] == steps[math.inf]


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
