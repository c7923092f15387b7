"""The workload generator, and traces as data."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.serving.simulator.trace import Trace, TraceCall, TraceError, TraceWorkflow, Unfolding, merge
from agentsys.serving.simulator.workload import KINDS, WorkloadSpec, arrival_times, generate

SMALL = WorkloadSpec(workflows=40, rate=2.0, seed=3)


def test_equal_specifications_give_equal_traces_and_seeds_differ() -> None:
    assert generate(SMALL) == generate(SMALL)
    assert generate(SMALL).workflows != generate(WorkloadSpec(workflows=40, rate=2.0, seed=4)).workflows


def test_the_work_does_not_depend_on_rate_or_arrivals() -> None:
    bursty = generate(WorkloadSpec(workflows=40, rate=9.0, arrivals="bursty", seed=3))
    assert [one.calls for one in bursty.workflows] == [one.calls for one in generate(SMALL).workflows]


@pytest.mark.parametrize("arrivals", ["poisson", "bursty", "diurnal"])
def test_arrivals_ascend_at_the_rate_asked_for(arrivals: str) -> None:
    spec = WorkloadSpec(workflows=4000, rate=2.0, arrivals=arrivals, diurnal_period=100.0)  # type: ignore[arg-type]
    times = arrival_times(spec)
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(2.0, rel=0.15)


def test_bursts_are_burstier_than_poisson() -> None:
    def variation(arrivals: str) -> float:
        times = arrival_times(WorkloadSpec(workflows=2000, arrivals=arrivals))  # type: ignore[arg-type]
        gaps = [after - before for before, after in pairwise(times)]
        return statistics.stdev(gaps) / statistics.mean(gaps)

    assert variation("bursty") > 2 > 1.2 > variation("poisson")


def test_the_kinds_have_their_shapes() -> None:
    trace = generate(WorkloadSpec(workflows=400))
    calls = {kind: [one.calls for one in trace.workflows if one.kind == kind] for kind in KINDS}
    assert all(calls.values())
    assert all(8 <= len(one) <= 20 for one in calls["text-to-sql"])
    assert all(len(one[-1].after) == len(one) - 2 for one in calls["fan-out"]), "a barrier waits for every part"
    assert len({len(one) for one in calls["retry"]}) > 3, "loops differ in length"
    assert all(one[-1].tool_seconds > 0 for one in calls["data-question"])


@given(scale=st.floats(0.01, 4.0), most=st.integers(8, 9000), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_every_call_fits_whatever_the_scale(scale: float, most: int, seed: int) -> None:
    trace = generate(WorkloadSpec(workflows=5, length_scale=scale, most_tokens=most, seed=seed))
    for call in (call for one in trace.workflows for call in one.calls):
        assert call.prompt_tokens + call.completion_tokens <= most
        assert call.completion_tokens >= 1


def test_a_mix_of_unknown_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match="poem"):
        WorkloadSpec(mix={"poem": 1.0})


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    trace = generate(SMALL)
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json").workflows == trace.workflows


def test_a_trace_written_by_hand_leaves_out_what_need_not_be_said(tmp_path: Path) -> None:
    call = {"stage": "s", "prompt_tokens": 10, "completion_tokens": 5}
    workflow = {"workflow": "w", "kind": "k", "arrived": 0, "tenant": "t", "tightness": 2, "calls": [call]}
    written = {"format": 1, "about": {}, "workflows": [workflow]}
    (tmp_path / "trace.json").write_text(json.dumps(written))
    assert Trace.load(tmp_path / "trace.json").workflows == (
        TraceWorkflow("w", "k", 0, (TraceCall("s", 10, 5),), "t", 2),
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "Expecting value"),
        ("[]", "list indices"),
        ('{"format": 9}', "of format 9"),
        ('{"format": 1, "workflows": [{}], "about": {}}', "'calls' is missing"),
        ('{"format": 1, "workflows": [{"calls": [1]}], "about": {}}', "trace.json is no trace"),
        ("[" * 100_000, "trace.json is no trace"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(TraceError, match=r"trace\.json") as refused:
        Trace.load(tmp_path / "trace.json")
    assert cause in refused.value.message and "Error" not in refused.value.message
    with pytest.raises(TraceError, match=r"absent\.json is no trace: No such file or directory\."):
        Trace.load(tmp_path / "absent.json")


def diamond() -> TraceWorkflow:
    first = TraceCall("first", 10, 2)
    left, right = TraceCall("left", 10, 3, (0,)), TraceCall("right", 10, 1, (0,), tool_seconds=4.0)
    return TraceWorkflow("w", "diamond", 1.0, (first, left, right, TraceCall("last", 10, 5, (1, 2))), tightness=2.0)


def test_the_critical_path_counts_calls_and_tools() -> None:
    assert diamond().critical_path(lambda call: call.completion_tokens) == 2 + (4 + 1) + 5
    trace = Trace((diamond(),))
    assert trace.deadlines(lambda call: call.completion_tokens, scale=0.5) == {"w": 1 + 0.5 * 2 * 12}


def test_a_workflow_unfolds_behind_its_barrier() -> None:
    unfolding = Unfolding(diamond())
    assert unfolding.begin() == [(0, 0.0)]
    assert unfolding.ended(0) == [(1, 0.0), (2, 4.0)]
    assert unfolding.ended(1) == []
    assert unfolding.ended(2) == [(3, 0.0)]
    assert not unfolding.done
    assert unfolding.ended(3) == [] and unfolding.done
    with pytest.raises(TraceError, match="twice"):
        unfolding.ended(3)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_unfolding_reveals_every_call_once(seed: int) -> None:
    for workflow in generate(WorkloadSpec(workflows=3, seed=seed)).workflows:
        unfolding = Unfolding(workflow)
        open_calls = [place for place, _ in unfolding.begin()]
        seen = []
        while open_calls:
            seen.append(open_calls.pop())
            open_calls += [place for place, _ in unfolding.ended(seen[-1])]
        assert sorted(seen) == list(range(len(workflow.calls))) and unfolding.done


def test_prompts_share_what_the_trace_says_they_share() -> None:
    calls = (TraceCall("a", 30, 1, (), 0.0, 10, 5), TraceCall("b", 40, 1, (0,), 0.0, 10, 5))
    one, other = TraceWorkflow("one", "k", 0.0, calls), TraceWorkflow("other", "k", 0.0, calls)
    first, second, foreign = one.prompt(0, 1000), one.prompt(1, 1000), other.prompt(0, 1000)
    assert (len(first), len(second)) == (30, 40)
    assert first[:15] == second[:15] and first[15:30] != second[15:30]
    assert first[:10] == foreign[:10] and first[10:15] != foreign[10:15]
    assert max(first) < 1000 and first == one.prompt(0, 1000)


@pytest.mark.parametrize(
    "call",
    [
        {"prompt_tokens": 3, "completion_tokens": 0},
        {"prompt_tokens": 3, "completion_tokens": 1, "template_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": 1, "tool_seconds": -1.0},
    ],
)
def test_impossible_calls_are_refused(call: dict[str, float]) -> None:
    with pytest.raises(TraceError, match="stage 's'"):
        TraceCall("s", **call)  # type: ignore[arg-type]


def test_a_call_before_its_cause_is_refused() -> None:
    with pytest.raises(TraceError, match="comes after"):
        TraceWorkflow("w", "k", 0.0, (TraceCall("s", 3, 1, (0,)),))
    with pytest.raises(TraceError, match="0 calls"):
        TraceWorkflow("w", "k", 0.0, ())


def test_traces_merge_in_order_of_arrival_and_speed_up() -> None:
    slow, fast = generate(SMALL), generate(WorkloadSpec(workflows=10, rate=9.0, seed=5))
    times = [one.arrived for one in merge([slow, fast]).workflows]
    assert times == sorted(times) and len(times) == 50
    assert slow.faster(2.0).workflows[-1].arrived == pytest.approx(slow.workflows[-1].arrived / 2)
