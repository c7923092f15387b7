"""The simulator: it conserves work, ends every call once, and notices schedulers that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agentsys.serving.requests import Usage
from agentsys.serving.scheduling.calls import Call, Decision, Move, OverloadedError, ReplicaSpec, Start
from agentsys.serving.simulator.cluster import HETEROGENEOUS, alone
from agentsys.serving.simulator.contenders import RIVALS, Contender, hexgen, learn, ours, rival
from agentsys.serving.simulator.profile import StageProfile
from agentsys.serving.simulator.replica import Outcome, Stretch
from agentsys.serving.simulator.results import SimulationResult, jain, quantile
from agentsys.serving.simulator.rivals import EarlyBinding, RoundRobin, by_arrival
from agentsys.serving.simulator.simulation import Core, Simulation, SimulationError
from agentsys.serving.simulator.torch_replica import EngineShape, TorchReplica
from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow
from agentsys.serving.simulator.workload import WorkloadSpec, generate

SECONDS = HETEROGENEOUS.call_seconds
PROFILE = StageProfile.of(generate(WorkloadSpec(workflows=40, seed=9)), SECONDS)
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a run takes a second
EVERYBODY = [
    *(rival(name, build, PROFILE, 4, preemptive=preemptive) for name, (build, preemptive) in RIVALS.items()),
    rival("hexgen", hexgen(0.2), PROFILE, 4, preemptive=False),
    ours(4),
]


def small(seed: int, workflows: int = 25, rate: float = 1.5) -> Trace:
    return generate(WorkloadSpec(workflows=workflows, rate=rate, seed=seed))


def simulate(trace: Trace, replicas: Sequence[TorchReplica], core: Core) -> SimulationResult:
    return Simulation(trace, replicas, core, call_seconds=SECONDS).run()


def early(specs: Sequence[ReplicaSpec]) -> EarlyBinding:
    return EarlyBinding(specs, RoundRobin(specs), by_arrival)


def check_complete(trace: Trace, result: SimulationResult) -> None:
    """Every call ended once, after what it needs, with its tokens; replicas computed these and no others."""
    ends = {(record.workflow, record.place): record for record in result.calls}
    assert len(ends) == len(result.calls) == trace.calls
    for workflow in trace.workflows:
        for place, call in enumerate(workflow.calls):
            record = ends[workflow.workflow, place]
            ready = max((ends[workflow.workflow, one].ended for one in call.after), default=workflow.arrived)
            assert record.issued == pytest.approx(ready + call.tool_seconds)
            assert record.ended > record.issued
    computed = sum(totals.decode_tokens for totals in result.replicas.values())
    assert computed >= sum(record.completion_tokens for record in result.calls)
    assert all(totals.busy_seconds <= result.seconds * (1 + 1e-9) for totals in result.replicas.values())


@pytest.mark.parametrize("contender", EVERYBODY, ids=lambda one: one.name)
@settings(max_examples=3, deadline=None, phases=NO_SHRINKING)
@given(seed=st.integers(0, 10_000))
def test_every_policy_ends_every_call_once(contender: Contender, seed: int) -> None:
    trace = small(seed)
    check_complete(trace, contender.run(trace, HETEROGENEOUS, scale=2.0))


@pytest.mark.parametrize("contender", EVERYBODY[-2:], ids=lambda one: one.name)
def test_equal_inputs_give_equal_results(contender: Contender) -> None:
    first, second = (contender.run(small(3), HETEROGENEOUS, 2.0) for _ in range(2))
    assert first.workflows == second.workflows and first.calls == second.calls


def test_without_cancelled_copies_replicas_compute_the_answers_and_no_more() -> None:
    result = EVERYBODY[1].run(small(4), HETEROGENEOUS, 2.0)
    computed = sum(totals.decode_tokens for totals in result.replicas.values())
    assert computed == sum(record.completion_tokens for record in result.calls)


@settings(max_examples=8, deadline=None, phases=NO_SHRINKING)
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 6), preemptive=st.booleans(), blocks=st.integers(3000, 6000))
def test_skipping_steps_changes_nothing_while_memory_lasts(
    seed: int, slots: int, preemptive: bool, blocks: int
) -> None:
    trace = small(seed, workflows=12, rate=4.0)
    ends = []
    for skip in (True, False):
        specs = [
            ReplicaSpec(one.name, slots, one.step_time, preemptive, preemptive, kv_tokens=blocks * 32)
            for one in HETEROGENEOUS.machines
        ]
        replicas = [TorchReplica(spec, HETEROGENEOUS.shape, skip=skip) for spec in specs]
        core = EarlyBinding(specs, RoundRobin(specs), lambda call, _place, _now: call.place.deadline)
        result = simulate(trace, replicas, core)
        ends.append({(one.workflow, one.place): one.ended for one in result.calls})
        assert skip or all(totals.steps == totals.schedules for totals in result.replicas.values())
    # Sums of many short steps and closed forms differ in the last digits.
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)


def test_a_lonely_call_takes_the_isolated_time() -> None:
    trace = Trace((TraceWorkflow("w", "k", 5.0, (TraceCall("s", 3000, 40),)),))
    result = ours(4).run(trace, HETEROGENEOUS, 1.0)
    assert result.workflows[0].slowdown == pytest.approx(1.0)
    assert result.calls[0].issued == 5.0


def test_the_isolated_time_is_that_of_the_fastest_replica() -> None:
    call = TraceCall("s", 3000, 40)
    times = [alone(one.step_time, HETEROGENEOUS.shape, call) for one in HETEROGENEOUS.machines]
    assert SECONDS(call) == min(times) == times[0]


class LosesACall(TorchReplica):
    def finish(self) -> Outcome:
        outcome = super().finish()
        return Outcome(
            outcome.at, outcome.tokens, {name: one for name, one in outcome.ended.items() if "/2" not in name}
        )


class AnswersTwice(TorchReplica):
    def __init__(self, spec: ReplicaSpec, shape: EngineShape) -> None:
        super().__init__(spec, shape)
        self.answered: dict[str, int] = {}

    def finish(self) -> Outcome:
        outcome = super().finish()
        again, self.answered = self.answered, dict(outcome.ended)
        tokens = {**outcome.tokens, **dict.fromkeys(again, 1)}
        return Outcome(outcome.at, tokens, {**again, **outcome.ended})


class StopsShort(TorchReplica):
    def finish(self) -> Outcome:
        outcome = super().finish()
        return Outcome(outcome.at, {name: max(tokens - 1, 1) for name, tokens in outcome.tokens.items()}, outcome.ended)


class RunsBackwards(TorchReplica):
    def begin(self, now: float) -> None:
        super().begin(now)
        if self.busy_until is not None:
            self.busy_until = now - 1.0


@pytest.mark.parametrize(
    ("faulty", "complaint"),
    [
        (LosesACall, "never ended"),
        (AnswersTwice, "does not have"),
        (StopsShort, "tokens"),
        (RunsBackwards, "time went back"),
    ],
)
def test_a_faulty_scheduler_is_caught(faulty: type[TorchReplica], complaint: str) -> None:
    specs = HETEROGENEOUS.specs(4, preemptive=False)
    with pytest.raises(SimulationError, match=complaint):
        simulate(small(1), [faulty(spec, HETEROGENEOUS.shape) for spec in specs], early(specs))


class StartsTwice(EarlyBinding):
    def decide(self, now: float) -> list[Decision]:
        return super().decide(now) * 2


class Forgets(EarlyBinding):
    def decide(self, now: float) -> list[Decision]:
        return [one for one in super().decide(now) if isinstance(one, Start) and not one.call_id.endswith("/1")]


@pytest.mark.parametrize(("faulty", "complaint"), [(StartsTwice, "started call"), (Forgets, "never ended")])
def test_a_faulty_core_is_caught(faulty: type[EarlyBinding], complaint: str) -> None:
    specs = HETEROGENEOUS.specs(4, preemptive=False)
    core = faulty(specs, RoundRobin(specs), by_arrival)
    with pytest.raises(SimulationError, match=complaint):
        simulate(small(1), HETEROGENEOUS.replicas(specs), core)


class MovesOnce(EarlyBinding):
    """Moves the first call to another replica when its answer has ten tokens."""

    moved = False

    def progressed(self, call_id: str, replica: str, tokens: int, now: float) -> list[Decision]:
        if self.moved or tokens < 10:
            return []
        self.moved = True
        target = next(spec.name for spec in self.specs if spec.name != replica)
        return [Move(call_id, replica, target, 0.0)]

    def ended(self, call_id: str, replica: str, usage: Usage, now: float) -> list[Decision]:
        if call_id == "w/0":
            assert replica == self.specs[1].name and usage.completion_tokens == 40
        return super().ended(call_id, replica, usage, now)


def test_a_moved_call_keeps_its_partial_answer() -> None:
    calls = (TraceCall("s", 3000, 40), TraceCall("t", 100, 3, (0,)))
    specs = HETEROGENEOUS.specs(4, preemptive=False)
    beside = TraceWorkflow("x", "k", 0.5, (TraceCall("t", 10, 1),))
    trace = Trace((TraceWorkflow("w", "k", 0.0, calls), beside))
    core = MovesOnce(specs, RoundRobin(specs), by_arrival)
    result = simulate(trace, HETEROGENEOUS.replicas(specs), core)
    assert core.moved and sorted(record.completion_tokens for record in result.calls) == [1, 3, 40]
    computed = sum(totals.decode_tokens for totals in result.replicas.values())
    assert 44 <= computed <= 46, "the partial answer is not generated again"


class Refuses(EarlyBinding):
    def submit(self, call: Call, now: float) -> None:
        if call.place.workflow.endswith("-3"):
            raise OverloadedError("full", retry_after=1.0)
        super().submit(call, now)


def test_a_refused_workflow_counts_as_late() -> None:
    specs = HETEROGENEOUS.specs(4, preemptive=False)
    core = Refuses(specs, RoundRobin(specs), by_arrival)
    result = simulate(small(1, workflows=10), HETEROGENEOUS.replicas(specs), core)
    late = [one for one in result.workflows if math.isinf(one.ended)]
    assert [one.workflow for one in late] == ["1-3"] and not late[0].on_time
    assert len(result.workflows) == 10


def test_learning_goes_into_copies() -> None:
    learned = learn(small(2), HETEROGENEOUS)
    contender = ours(4, learned)
    assert (
        contender.run(small(5), HETEROGENEOUS, 2.0).workflows == contender.run(small(5), HETEROGENEOUS, 2.0).workflows
    )


@given(began=st.floats(0, 100), steps=st.integers(1, 50), first=st.floats(0.001, 1), growth=st.floats(0, 0.1))
def test_a_stretch_knows_how_far_it_is(began: float, steps: int, first: float, growth: float) -> None:
    stretch = Stretch(began, steps, first, growth)
    assert stretch.done_by(stretch.end) == steps
    assert stretch.done_by(began) == 0
    middle = began + stretch.seconds(steps // 2)
    assert stretch.done_by(middle) == steps // 2


def test_figures() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0 and quantile([1.0], 0.99) == 1.0
    assert jain([1.0, 1.0]) == 1.0 and jain([1.0, 0.0]) == 0.5
