"""Evolution: it begins with the policy in use, repeats itself, can be resumed, and its gate refuses what is worse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.benchmarks.tiny_model import write_tiny_model
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS, CallFacts, Option, Policy, UrgencyPolicy
from agentsys.serving.simulator import evolution
from agentsys.serving.simulator.cluster import HETEROGENEOUS
from agentsys.serving.simulator.contenders import Learned
from agentsys.serving.simulator.evolution import Bench, Evolution, evolve, first_policy
from agentsys.serving.simulator.expression_policy import ExpressionPolicy
from agentsys.serving.simulator.live import gate, on_torch
from agentsys.serving.simulator.search import SearchStateError
from agentsys.serving.simulator.simulation import SimulationError
from agentsys.serving.simulator.workload import WorkloadSpec, generate

TRACES = [generate(WorkloadSpec(workflows=8, rate=4.0, length_scale=0.5, seed=3))]
BENCH = Bench(HETEROGENEOUS, Learned(), slots=2, scale=4.0)
NOW = 1e6
SECONDS = st.floats(0.0, 1e4)
DEADLINES = st.one_of(st.just(math.inf), st.floats(-1e4, 1e4).map(lambda seconds: NOW + seconds))
CALLS = st.builds(
    CallFacts,
    arrived=st.just(NOW),
    workflow_arrived=st.just(NOW - 10.0),
    deadline=DEADLINES,
    path=SECONDS,
    work=SECONDS,
    own=SECONDS,
    attained=SECONDS,
    lead=SECONDS,
    demoted=st.booleans(),
    prompt_tokens=st.integers(1, 9_000),
    expected_tokens=SECONDS,
)
OPTIONS = st.builds(
    Option,
    replica=st.just(0),
    wait=SECONDS,
    backlog=SECONDS,
    prefill=SECONDS,
    decode=SECONDS,
    harm=SECONDS,
    delay=SECONDS,
    batch=st.integers(0, 64),
    slots=st.integers(1, 64),
)


def search(generations: int, state: Evolution | None = None) -> Evolution:
    state = state or Evolution(seed=5)
    evolve(state, BENCH, TRACES, generations=generations, children=3)
    return state


@given(CALLS, OPTIONS)
def test_the_first_policy_is_the_one_in_use(call: CallFacts, option: Option) -> None:
    ours, first = UrgencyPolicy(), first_policy()
    assert first.key(call, NOW) == pytest.approx(ours.key(call, NOW), rel=1e-12)
    assert first.cost(call, option, NOW) == pytest.approx(ours.cost(call, option, NOW), rel=1e-9, abs=1e-9)


@given(CALLS, st.sampled_from(["1e300 * 1e300", "-1e300 * 1e300", "now * now", "0 - path", "lead / own"]))
def test_no_key_starves_a_call(call: CallFacts, key: str) -> None:
    chosen = ExpressionPolicy.of(key, "finish").key(call, NOW)
    assert math.isfinite(chosen)
    assert chosen <= call.arrived + LONGEST_WAIT_SECONDS


def test_equal_seeds_give_equal_results_and_the_best_is_no_worse_than_the_first() -> None:
    one, two = search(2), search(2)
    assert one.population == two.population
    assert one.population[0][0] <= BENCH.score(first_policy(), TRACES)
    assert len({str(policy.to_json()) for _score, policy in one.population}) > 1


def test_a_search_that_was_interrupted_ends_as_it_would_have(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    search(1).save(file)
    assert search(2, Evolution.load(file, "")).population == search(2).population


def test_a_file_of_another_search_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    Evolution(1, BENCH.identity(TRACES, seed=1)).save(file)
    Evolution.load(file, BENCH.identity(TRACES, seed=1))
    for other in (BENCH.identity(TRACES, seed=2), replace(BENCH, slots=3).identity(TRACES, seed=1)):
        with pytest.raises(SearchStateError):
            Evolution.load(file, other)
    file.write_text(file.read_text().replace("[]", '[{"score": 1, "key": "open(1)", "cost": "wait"}]'))
    with pytest.raises(SearchStateError, match="open"):
        Evolution.load(file, BENCH.identity(TRACES, seed=1))


def test_a_policy_that_breaks_the_simulation_scores_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> float:
        raise SimulationError("planted")

    monkeypatch.setattr(evolution, "needed", broken)
    assert BENCH.score(first_policy(), TRACES) == math.inf


def test_a_policy_that_serves_the_least_urgent_first_scores_worse() -> None:
    crowd = [generate(WorkloadSpec(workflows=30, rate=20.0, seed=4))]
    assert BENCH.score(ExpressionPolicy.of("0 - deadline", "0 - finish"), crowd) > BENCH.score(first_policy(), crowd)


@pytest.mark.parametrize(("lateness", "passed"), [(0.5, True), (1.09, True), (1.2, False), (math.inf, False)])
def test_the_gate_refuses_what_is_worse(lateness: float, passed: bool) -> None:
    before, after = first_policy(), ExpressionPolicy.of("now", "wait")
    order: list[Policy] = []

    def scripted(policy: Policy) -> list[float]:
        order.append(policy)
        return [lateness if policy is after else 1.0]

    assert gate(scripted, before, after).passed is passed
    assert order == [before, after, after, before]


def test_the_gate_serves_with_the_real_engine(tmp_path: Path) -> None:
    trace = generate(WorkloadSpec(workflows=3, rate=20.0, length_scale=0.01, tool_scale=0.01, most_tokens=64, seed=2))
    latenesses = on_torch(write_tiny_model(tmp_path / "tiny"), trace, 0.05, vocabulary=100)(first_policy())
    assert len(latenesses) == 3
    assert min(latenesses) > 0
