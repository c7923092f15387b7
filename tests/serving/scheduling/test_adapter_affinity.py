"""Where calls under LoRA adapters run: where the adapter is, and of equal places where it was at work before."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.blackboard.labels import Readers
from agentsys.serving.engine_errors import UnknownAdapterError
from agentsys.serving.requests import Usage, WorkflowCall
from agentsys.serving.scheduling.calls import Call, NoReplicaError, ReplicaSpec, Start
from agentsys.serving.scheduling.dispatch import DispatchCore
from agentsys.serving.scheduling.estimates import Estimates
from agentsys.serving.scheduling.lengths import OutputLengths
from agentsys.serving.scheduling.replicas import Replica
from agentsys.serving.scheduling.step_time import StepTime

STEP = StepTime(0.02, 0.0002, 0.002, 0.0)
EVERY = frozenset(f"lora{number}" for number in range(12))


def spec(name: str, slots: int = 8, adapters: frozenset[str] = EVERY, **more: Any) -> ReplicaSpec:
    return ReplicaSpec(name, slots, STEP, adapters=adapters, **more)


def call(name: str, adapter: str | None, workflow: str | None = None, **more: Any) -> Call:
    place = WorkflowCall(workflow or name, "kind", "stage", deadline=math.inf)
    return Call(name, place, 0.0, 100, 50, adapter=adapter, **more)


def placed(core: DispatchCore, one: Call, now: float) -> str:
    core.submit(one, now)
    (start,) = [decision for decision in core.decide(now) if isinstance(decision, Start)]
    return start.replica


def end(core: DispatchCore, name: str, replica: str, now: float) -> None:
    core.ended(name, replica, Usage(100, 0, 20), now)


@given(st.lists(st.sampled_from(["lora0", "lora1", "lora2"]), min_size=1, max_size=30), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_of_idle_replicas_that_are_alike_the_one_that_served_the_adapter_is_chosen(
    names: list[str], count: int
) -> None:
    core = DispatchCore([spec(f"r{index}") for index in range(count)])
    served: dict[str, str] = {}
    for number, adapter in enumerate(names):
        replica = placed(core, call(f"c{number}", adapter), float(number))
        assert replica == served.setdefault(adapter, replica)
        end(core, f"c{number}", replica, number + 0.5)


def test_a_call_joins_those_of_its_adapter_that_run_where_as_many_run_elsewhere() -> None:
    core = DispatchCore([spec("a"), spec("b")])
    assert placed(core, call("base", None), 0.0) == "a"
    assert placed(core, call("first", "lora0"), 0.0) == "b", "the other one has a call already"
    assert placed(core, call("second", "lora0"), 0.0) == "b", "though the first in line has no more to do"
    assert placed(core, call("third", "lora1"), 0.0) == "a", "where less runs"


def test_nobody_waits_for_an_adapters_place_where_another_is_free() -> None:
    core = DispatchCore([spec("a", slots=1), spec("b", slots=1)])
    first = placed(core, call("first", "lora0"), 0.0)
    assert placed(core, call("second", "lora0"), 0.0) != first


def test_an_adapter_that_many_others_followed_is_not_at_work_any_more() -> None:
    core = DispatchCore([spec("a")])
    replica = core.replicas["a"]
    for number in range(8):
        placed(core, call(f"c{number}", f"lora{number}"), 0.0)
    assert all(replica.has_at_work(f"lora{number}") for number in range(8))
    for number in range(8, 12):
        end(core, f"c{number - 8}", "a", 1.0)
        placed(core, call(f"c{number}", f"lora{number}"), 1.0)
    assert [replica.has_at_work(f"lora{number}") for number in range(12)] == [False] * 4 + [True] * 8


def test_a_prefix_of_one_adapter_is_not_expected_in_the_cache_for_another() -> None:
    replica = Replica(spec("a"), 0)
    estimates = Estimates([replica], OutputLengths())
    estimates.learn(call("c0", "lora0", "w"), replica, Usage(100, 0, 20))  # the workflow was nowhere before
    estimates.learn(call("c1", "lora0", "w"), replica, Usage(100, 90, 20))
    cached = [estimates.at(call("c2", adapter, "w"), replica, 20).cached for adapter in ("lora0", "lora1", None)]
    assert cached[0] > 0.5 and cached[1:] == [0.0, 0.0]


def test_who_has_the_adapter_and_may_not_be_told_the_prompt_gets_no_call() -> None:
    far = spec("far", adapters=frozenset({"law"}), audience=Readers.of("model-server:far"))
    core = DispatchCore([spec("near", adapters=frozenset()), far])
    with pytest.raises(NoReplicaError):
        core.submit(call("c", "law", readers=Readers.of("user:ann")), 0.0)
    with pytest.raises(UnknownAdapterError, match=r"no adapter 'sea'; it has law"):
        core.submit(call("c", "sea"), 0.0)
    assert not core.calls
