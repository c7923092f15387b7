"""What is learned from steps, answers and workflows: prices, lengths and what is left."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.serving.requests import Usage, WorkflowCall
from agentsys.serving.scheduling.affinity import PrefixAffinity
from agentsys.serving.scheduling.calls import Call, ReplicaSpec
from agentsys.serving.scheduling.estimates import Estimates
from agentsys.serving.scheduling.fairness import TenantShares
from agentsys.serving.scheduling.lengths import OutputLengths
from agentsys.serving.scheduling.replicas import Replica
from agentsys.serving.scheduling.stages import START, Demand, StageHistory
from agentsys.serving.scheduling.step_time import Iteration, StepTime, StepTimeFit, prefill_chunk
from agentsys.serving.scheduling.workflows import WorkflowTable

TRUE = StepTime(0.02, 0.0004, 0.003, 0.000002)


def steps(count: int, seed: int = 0, noise: float = 0.0) -> list[Iteration]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        work = (draw.choice([0, 0, 0, 64, 256]), draw.randint(1, 16), draw.randint(100, 8000))
        found.append(Iteration(*work, TRUE.seconds(*work) * math.exp(draw.gauss(0, noise))))
    return found


def test_prices_are_recovered_from_steps() -> None:
    fit = StepTimeFit.of(steps(500), StepTime(1.0, 0.01, 0.1, 0.0001))
    for work in ((0, 1, 200), (256, 4, 3000), (64, 16, 8000)):
        assert fit.model.seconds(*work) == pytest.approx(TRUE.seconds(*work), rel=0.02)


def test_prices_follow_a_replica_that_becomes_slow() -> None:
    fit = StepTimeFit(TRUE, memory=100)
    for step in steps(500):
        fit.add(Iteration(step.prefill_tokens, step.decoding, step.context_tokens, 3 * step.seconds))
    assert fit.model.seconds(0, 8, 4000) == pytest.approx(3 * TRUE.seconds(0, 8, 4000), rel=0.05)


@given(
    st.lists(
        st.builds(
            Iteration, st.integers(0, 4096), st.integers(0, 256), st.integers(0, 10**6), st.floats(0, 10, width=32)
        ),
        max_size=30,
    )
)
def test_no_price_is_ever_negative(iterations: list[Iteration]) -> None:
    model = StepTimeFit.of(iterations, TRUE).model
    assert min(model.base, model.per_prefill, model.per_sequence, model.per_context) >= 0


def test_lengths_of_a_stage_are_learned_and_those_of_an_unseen_one_are_like_all() -> None:
    lengths, draw = OutputLengths(), random.Random(1)
    for _ in range(300):
        lengths.add("short", int(draw.lognormvariate(math.log(10), 0.3)))
        lengths.add("long", int(draw.lognormvariate(math.log(200), 0.3)))
    assert lengths.expected("short", 1000) == pytest.approx(10.5, rel=0.15)
    assert lengths.expected("long", 1000) == pytest.approx(209, rel=0.15)
    assert 20 < lengths.expected("unseen", 1000) < 400
    assert lengths.quantile("long", 0.95, 1000) == pytest.approx(200 * math.exp(0.3 * 1.645), rel=0.15)


@given(st.lists(st.integers(1, 5000), max_size=20), st.integers(1, 4096), st.data())
def test_expected_lengths_lie_between_what_is_there_and_the_limit(
    seen: list[int], most: int, data: st.DataObject
) -> None:
    lengths = OutputLengths()
    for tokens in seen:
        lengths.add("stage", tokens)
    generated = data.draw(st.integers(0, most))
    assert min(generated, most) <= lengths.expected("stage", most, generated) <= most


def test_a_loop_counts_as_often_as_it_goes_round() -> None:
    history, draw = StageHistory(), random.Random(2)
    for _ in range(400):
        history.followed(START, "draft", 0.0)
        history.ended("draft", Demand(2.0, 1.0))
        stage = "draft"
        while draw.random() < 0.75:  # three revisions on average
            history.followed(stage, "revise", 0.5)
            history.ended("revise", Demand(1.0, 0.5))
            stage = "revise"
        history.followed(stage, None, 0.0)
    left = history.left("draft")
    assert left.path == pytest.approx(3 * 1.5, rel=0.15)
    assert left.work == pytest.approx(3 * 0.5, rel=0.15)
    assert history.left(START).path == pytest.approx(2.0 + 4.5, rel=0.15)


def test_a_known_graph_is_the_first_guess_and_an_endless_loop_has_an_end() -> None:
    history = StageHistory({START: ["plan"], "plan": ["act"], "act": ["plan"]})
    history.ended("plan", Demand(1.0, 1.0))
    history.ended("act", Demand(2.0, 1.0))
    assert 2.0 <= history.left("plan").path < math.inf


def test_a_loop_that_ended_once_and_long_ago_has_an_end() -> None:
    history = StageHistory()
    history.followed(START, "act", 0.0)
    history.followed("act", None, 0.0)
    history.ended("act", Demand(1.0, 1.0))
    for _ in range(12_000):
        history.followed("act", "act", 0.0)
    assert 1.0 <= history.left("act").path < 1e4


def test_names_that_never_come_again_take_no_memory_for_ever() -> None:
    table, lengths, affinity = WorkflowTable(), OutputLengths(), PrefixAffinity()
    for number in range(5000):
        name = f"n{number}"
        for place in (WorkflowCall("long", "kind", name), WorkflowCall(name, name, "stage")):
            workflow = table.begin_call(name, place, Demand(), 0.0)
            table.end_call(workflow, name, Demand(1.0, 1.0), 1.0)
        table.end(name, 1.0)
        lengths.add(name, 5)
        affinity.ran("a", "w", name, 100, 50)
    assert table.after(table.begin_call("c", WorkflowCall("long", "kind", "n4999"), Demand(), 2.0)).path >= 0
    history = table._kinds["kind"]
    assert len(history._stages) <= 256 and all(len(one.next) <= 257 for one in history._stages.values())
    assert len(table._kinds) <= 1024 and len(lengths._stages) <= 4096 and len(affinity._shares) <= 4096


def test_tenants_that_come_once_are_forgotten_though_the_engines_are_never_idle() -> None:
    shares = TenantShares()
    shares.begin("busy")
    for number in range(10_000):
        shares.begin(f"t{number}")
        shares.serve(f"t{number}", 1.0)
        shares.end(f"t{number}")
    assert len(shares._served) < 4200
    shares.begin("t9999")
    assert shares.lead("t9999") == 1.0


def test_a_fan_out_is_one_stage_whose_path_is_its_longest_call() -> None:
    table = WorkflowTable()
    for number in range(20):
        place = WorkflowCall(f"w{number}", "kind", "search", deadline=100.0, arrived=1.0)
        for call in ("a", "b", "c"):
            workflow = table.begin_call(f"{number}{call}", place, Demand(), 1.0)
        for call, seconds in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
            table.end_call(workflow, f"{number}{call}", Demand(seconds, seconds), 5.0)
        final = WorkflowCall(f"w{number}", "kind", "answer", deadline=100.0, arrived=1.0)
        table.begin_call(f"{number}d", final, Demand(), 7.0)
        table.end_call(workflow, f"{number}d", Demand(4.0, 4.0), 11.0)
        table.end(f"w{number}", 11.0)
    workflow = table.begin_call("new", WorkflowCall("new", "kind", "search"), Demand(2.0, 2.0), 0.0)
    left = table.remaining(workflow, list(workflow.open.values()))
    assert left.path == pytest.approx(2.0 + 2.0 + 4.0, rel=0.01)  # the call, the pause of two seconds, the answer
    assert left.work == pytest.approx(2.0 + 4.0, rel=0.01)
    assert table.after(workflow).path == pytest.approx(6.0, rel=0.01)


def test_a_workflow_that_falls_silent_ends_by_itself() -> None:
    table = WorkflowTable()
    workflow = table.begin_call("a", WorkflowCall("w"), Demand(), 0.0)
    table.end_call(workflow, "a", Demand(1.0, 1.0), 1.0)
    table.sweep(60.0)
    assert table.get("w") is workflow
    table.sweep(500.0)
    assert table.get("w") is None


def test_prefixes_are_expected_where_the_workflow_was() -> None:
    affinity = PrefixAffinity()
    for number in range(20):
        affinity.ran("a", number, "first", 100, 0)
        affinity.ran("a", number, "second", 200, 120)
    affinity.ran("a", "mine", "first", 100, 0)
    assert affinity.share("a", "mine", "second") == pytest.approx(0.6, abs=0.05)
    assert affinity.share("b", "mine", "second") == 0.0


def test_a_prompt_that_was_longer_than_guessed_takes_no_less_than_nothing() -> None:
    replica = Replica(ReplicaSpec("a", 4, TRUE), 0)
    estimates = Estimates([replica], OutputLengths())
    call = Call("c", WorkflowCall("w", "kind", "stage"), 0.0, prompt_tokens=100, most_tokens=10)
    for _ in range(50):
        took = estimates.learn(call, replica, Usage(prompt_tokens=400, cached_tokens=360, completion_tokens=1))
    assert took.path > 0 and took.work > 0
    expected = estimates.at(call, replica, 10)
    assert expected.cached == pytest.approx(0.9) and expected.prompt_per_token > 0


def test_beside_an_answer_prompts_get_more_of_a_step_where_they_are_cheap() -> None:
    cpu, gpu = StepTime(0.035, 1e-3, 3e-3, 0.0), StepTime(0.0025, 1.5e-5, 3e-5, 0.0)
    assert prefill_chunk(256, 8.0, cpu) == 280
    assert prefill_chunk(256, 8.0, gpu) == 1333
    assert prefill_chunk(256, 2.0, cpu) == 256
    assert prefill_chunk(256, 0.0, gpu) == prefill_chunk(256, 8.0, None) == 256
    assert prefill_chunk(256, 8.0, StepTime(0.01, 0.0, 1e-3, 0.0)) > 10**6
