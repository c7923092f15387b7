"""What holds of the scheduler under any load and any bounds, and that the checks notice when it does not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.scheduler import Scheduler
from agentsys.serving.torch_engine.sequence import SequenceState
from agentsys.serving.torch_engine.slots import Slots
from tests.serving.scheduler_trial import LIMITS, STEP_TIME, run_step, run_trial, sequence

BOUNDS = st.builds(
    lambda margin, quantum, most, chunk, steps, hurry, slowdown: replace(
        LIMITS,
        preemption_margin=margin,
        preemption_quantum=quantum,
        max_preemptions=most,
        prefill_chunk=chunk,
        prefill_steps=steps,
        slowdown=slowdown,
        hurry=hurry,
    ),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(1, 10),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.sampled_from([-1.0, 0.5, math.inf]),
    st.sampled_from([1.0, 1.3, 3.0, math.inf]),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limits=BOUNDS, seed=st.integers(0, 2**32), arrivals=st.integers(1, 12))
def test_any_load_keeps_every_invariant_and_comes_to_an_end(limits: SchedulerLimits, seed: int, arrivals: int) -> None:
    run_trial(Scheduler(limits, STEP_TIME), seed, arrivals)


class Impatient(Slots):
    """Planted: takes a slot from whoever is less urgent, whatever the bounds."""

    def _yields(self, holder: SequenceState, challenger: SequenceState) -> bool:
        return holder.key > challenger.key


class Timid(Slots):
    """Planted: never takes a slot away."""

    def _yields(self, holder: SequenceState, challenger: SequenceState) -> bool:
        return False


class Leaky(Scheduler):
    """Planted: forgets to give a block back."""

    def remove(self, ended: SequenceState) -> None:
        ended.blocks = ended.blocks[1:]
        super().remove(ended)


class Uncapped(Scheduler):
    """Planted: prefills behind a decode take the whole step."""

    def schedule(self, *args, **options):
        asked, self.limits = self.limits, replace(self.limits, prefill_chunk=self.limits.max_step_tokens)
        works = super().schedule(*args, **options)
        self.limits = asked
        return works


def slots_of(kind: type[Slots]) -> type[Scheduler]:
    class Planted(Scheduler):
        def __init__(self, limits: SchedulerLimits) -> None:
            super().__init__(limits)
            self._slots = kind(limits)

    return Planted


@pytest.mark.parametrize(
    ("planted", "noticed"),
    [
        (slots_of(Impatient), "within the quantum|less than the margin|too often"),
        (slots_of(Timid), "may be preempted"),
        (Leaky, "owned by nobody"),
        (Uncapped, "more than their share"),
    ],
    ids=["impatient", "timid", "leaky", "uncapped"],
)
def test_a_planted_violation_is_noticed(planted: type[Scheduler], noticed: str) -> None:
    limits = replace(LIMITS, preemption_margin=0.1, preemption_quantum=3, max_preemptions=1, prefill_chunk=3)
    with pytest.raises(AssertionError, match=noticed):
        for seed in range(30):
            run_trial(planted(limits), seed, arrivals=12)


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
