"""Our scheduler on top of vLLM's real one, without a model: its blocks, chunks and preemptions, step by step."""

from __future__ import annotations

import importlib.util
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from agentsys.serving.scheduling.step_time import StepTime
from agentsys.serving.vllm_engine import scheduler as module
from agentsys.serving.vllm_engine.modelless import ModellessOptions, ModellessScheduler
from agentsys.serving.vllm_engine.preemption import UrgencyLimits
from agentsys.serving.vllm_engine.step_log import StepLog

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]

LIMITS = UrgencyLimits(margin_ms=10, quantum=2, prefill_chunk=32, prefill_steps=0)
LATER = 10_000


def scheduler(folder: Path, urgency: UrgencyLimits | None = LIMITS, **options: int) -> ModellessScheduler:
    return ModellessScheduler(folder, ModellessOptions(**{"slots": 2, "step_tokens": 128} | options, urgency=urgency))


def prompt(start: int, count: int = 40) -> list[int]:
    return [start * 1000 + index for index in range(count)]


def ends(vllm: ModellessScheduler, most: int = 2000) -> list[str]:
    """Run to the end; returns the requests in order of their ends."""
    order: list[str] = []
    for _ in range(most):
        if not vllm.has_work:
            return order
        order += vllm.step().ended
    raise AssertionError(f"still at work after {most} steps; {order} ended")


def busy(vllm: ModellessScheduler, steps: int = 5) -> None:
    for name, key in (("a", LATER), ("b", LATER + 500), ("c", LATER + 900)):
        vllm.add(name, prompt(ord(name)), 50, priority=key, arrived=float(ord(name)))
    for _ in range(steps):
        vllm.step()


def test_an_urgent_request_takes_the_slot_of_the_least_urgent(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    busy(vllm)
    vllm.add("urgent", prompt(9), 3, priority=1, arrived=99.0)
    assert set(vllm.step().tokens) == {"a", "urgent"}
    assert ends(vllm) == ["urgent", "a", "b", "c"]


def test_vllm_s_own_scheduler_lets_it_wait(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir, None)
    busy(vllm)
    vllm.add("urgent", prompt(9), 3, priority=1, arrived=99.0)
    assert set(vllm.step().tokens) == {"a", "b"}
    assert ends(vllm)[:2] == ["a", "b"]


def test_the_preempted_computes_little_anew(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    busy(vllm, steps=30)
    vllm.add("urgent", prompt(9), 3, priority=1, arrived=99.0)
    steps = [vllm.step() for _ in range(4)]
    assert steps[2].ended == ("urgent",)
    assert 1 <= steps[3].prefill_tokens <= vllm.options.block_size, "all but the last block is in the prefix cache"


def test_a_long_prefill_without_hurry_does_not_hold_up_one_that_decodes(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    vllm.add("urgent", prompt(1), 20, priority=1)
    vllm.step()
    vllm.add("long", prompt(2, 1000), 5, priority=LATER)
    steps = [vllm.step() for _ in range(10)]
    assert all(step.prefill_tokens <= LIMITS.prefill_chunk and "urgent" in step.tokens for step in steps)


def test_a_long_prefill_gives_the_step_to_an_urgent_one_that_comes(smollm2_dir: Path) -> None:
    for urgency, expected in ((LIMITS, {"urgent"}), (None, set())):
        vllm = scheduler(smollm2_dir, urgency)
        vllm.add("long", prompt(2, 1000), 5, priority=LATER)
        vllm.step()
        vllm.add("urgent", prompt(1, 90), 20, priority=1, arrived=1.0)
        assert set(vllm.step().tokens) == expected


def test_alone_a_long_prefill_has_every_token(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    vllm.add("long", prompt(2, 1000), 5, priority=LATER)
    assert vllm.step().prefill_tokens == 128


def many_adapters(folder: Path, **options: int) -> ModellessScheduler:
    return scheduler(folder, **{"slots": 4, "adapters": 3, "adapters_at_once": 1} | options)


def test_an_urgent_request_of_another_adapter_takes_the_place_of_all_of_one(smollm2_dir: Path) -> None:
    vllm = many_adapters(smollm2_dir)
    for number in range(3):
        vllm.add(f"busy {number}", prompt(number), 50, priority=LATER, arrived=number, adapter=1)
    vllm.add("base", prompt(5), 50, priority=LATER)
    for _ in range(5):
        vllm.step()
    vllm.add("urgent", prompt(9), 3, priority=1, arrived=99.0, adapter=2)
    assert set(vllm.step().tokens) == {"urgent", "base"}
    assert ends(vllm)[0] == "urgent"


def test_a_stream_of_one_adapter_does_not_starve_another(smollm2_dir: Path) -> None:
    vllm = many_adapters(smollm2_dir)
    vllm.add("first", prompt(0), 20, priority=LATER, adapter=1)
    vllm.step()
    vllm.add("other", prompt(9), 3, priority=LATER + 1, adapter=2)
    order: list[str] = []
    for number in range(1, 40):
        vllm.add(f"more {number}", prompt(number), 20, priority=LATER + 1 + number, adapter=1)
        order += vllm.step().ended
    assert order[:2] == ["first", "other"]


def test_a_prefill_without_a_token_in_a_step_keeps_the_place_of_its_adapter(smollm2_dir: Path) -> None:
    # vLLM alone counts what it has scheduled in a step, starts "urgent", and fails once all three have tokens in one.
    patient = UrgencyLimits(margin_ms=10, quantum=1000, prefill_chunk=32, prefill_steps=0)
    vllm = scheduler(smollm2_dir, patient, slots=4, adapters=3, adapters_at_once=1)
    vllm.add("held", prompt(1, 400), 40, priority=LATER + 500, adapter=1)
    vllm.step()
    vllm.add("between", prompt(2, 400), 40, priority=LATER)
    vllm.step()
    vllm.add("urgent", prompt(3), 40, priority=1, adapter=2)
    assert set(vllm.step().tokens) == set(), "the place is taken, and who has it has its quantum"
    assert ends(vllm) == ["between", "held", "urgent"]


@pytest.mark.parametrize("seed", range(3))
def test_with_more_adapters_than_places_everything_ends_and_no_step_holds_too_many(
    smollm2_dir: Path, seed: int
) -> None:
    draw = random.Random(seed)
    vllm = many_adapters(smollm2_dir, slots=5, adapters=4, adapters_at_once=2, step_tokens=64)
    adapters: dict[str, int] = {}
    ended: list[str] = []
    for number in range(120):
        name = f"r{number}"
        adapters[name] = draw.randint(0, 4)
        vllm.add(
            name,
            prompt(number, draw.randint(5, 300)),
            draw.randint(1, 30),
            priority=draw.choice([1, LATER, 2 * LATER]) + number,
            arrived=number,
            adapter=adapters[name],
        )
        for _ in range(draw.randint(0, 6)):
            ended += vllm.step().ended
            running = {adapters[request.request_id] for request in vllm.scheduler.running} - {0}
            assert len(running) <= 2
    assert Counter(ended + ends(vllm, 20_000)) == Counter(list(adapters))


def test_a_new_key_of_a_waiting_request_changes_the_order(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    busy(vllm)
    vllm.add("d", prompt(7), 50, priority=LATER + 950, arrived=200.0)
    assert vllm.rekey("d", LATER + 600)
    assert ends(vllm) == ["a", "b", "d", "c"]
    assert not vllm.rekey("d", 1), "it is gone"


def test_a_name_that_is_used_again_is_that_of_the_newer_request(smollm2_dir: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_name", lambda request: request.request_id.partition("#")[0])
    vllm = scheduler(smollm2_dir)
    vllm.add("r#1", prompt(1), 50)
    vllm.step()
    vllm.add("r#2", prompt(2), 50)
    vllm.abort("r#1")
    assert vllm.rekey("r", 7) and vllm.scheduler.requests["r#2"].priority == 7
    vllm.abort("r#2")
    assert not vllm.rekey("r", 8)


def test_a_new_key_of_a_running_request_changes_the_order(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    busy(vllm)
    assert vllm.rekey("b", LATER + 2000)
    vllm.step()
    assert set(vllm.step().tokens) == {"a", "c"}
    assert ends(vllm) == ["a", "c", "b"]


def test_a_request_is_preempted_no_more_often_than_the_bound(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir, UrgencyLimits(margin_ms=10, quantum=0, most_preemptions=2), slots=1)
    vllm.add("patient", prompt(1), 40, priority=LATER)
    vllm.step()
    patient = vllm.scheduler.requests["patient"]
    for index in range(5):
        vllm.add(f"u{index}", prompt(20 + index), 2, priority=1, arrived=float(index))
        for _ in range(4):
            vllm.step()
    assert patient.num_preemptions == 2
    assert ends(vllm)[0] == "patient"


def test_fewer_may_run_at_once_and_the_least_urgent_step_back(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir, slots=3)
    busy(vllm)
    assert vllm.counts() == (3, 0)
    vllm.scheduler.limit_running(1)
    assert set(vllm.step().tokens) == {"a"} and vllm.counts() == (1, 2)
    vllm.scheduler.limit_running(0)
    vllm.step()
    assert vllm.counts() == (3, 0)


def paced_load(folder: Path, *kappas: float, slowdown: float = 1.5) -> ModellessScheduler:
    """Four slots and a request for each κ (seconds from now), where a sequence more costs two sevenths of a step."""
    limits = UrgencyLimits(margin_ms=10, quantum=2, slowdown=slowdown)
    vllm = scheduler(folder, limits, slots=4)
    vllm.scheduler.steps = KnownSteps()
    for number, seconds in enumerate(kappas):
        key = int(1000 * (time.time() + seconds))
        vllm.add(str(number), prompt(number, 8), 50, priority=key, arrived=float(number))
    return vllm


class KnownSteps(StepLog):
    step_time = StepTime(base=0.1, per_prefill=0.0, per_sequence=0.04, per_context=0.0)


@pytest.mark.parametrize(
    ("kappas", "slowdown", "running"),
    [
        pytest.param([9, 9, 9, 9, 9], 1.5, 2, id="as many as keep the step short"),
        pytest.param([-9, -9, -9, 9, 9], 1.5, 3, id="those whose κ has come"),
        pytest.param([-9, -9, -9, -9, -9], 1.5, 4, id="all are late alike"),
        pytest.param([900, 900, 900, 900, 900], 1.5, 4, id="nobody is in a hurry"),
        pytest.param([9, 9, 9, 9, 9], 0.0, 4, id="switched off"),
    ],
)
def test_so_many_run_beside_an_urgent_request(
    smollm2_dir: Path, kappas: list[float], slowdown: float, running: int
) -> None:
    vllm = paced_load(smollm2_dir, *kappas, slowdown=slowdown)
    assert set(vllm.step().tokens) == {str(number) for number in range(running)}


def test_what_runs_goes_on_when_fewer_should_start_and_gives_way_one_for_one(smollm2_dir: Path) -> None:
    vllm = paced_load(smollm2_dir, 900, 901, 902, 903, 904)
    for _ in range(3):
        vllm.step()
    urgent = int(1000 * (time.time() + 5))
    vllm.add("urgent", prompt(9, 8), 3, priority=urgent, arrived=9.0)
    assert set(vllm.step().tokens) == {"0", "1", "2", "urgent"}
    vllm.add("less", prompt(10, 8), 3, priority=urgent + 5, arrived=10.0)
    assert set(vllm.step().tokens) == {"0", "1", "urgent", "less"}
    assert set(ends(vllm)) == {"0", "1", "2", "3", "4", "urgent", "less"}


def test_it_counts_its_steps(smollm2_dir: Path) -> None:
    vllm = scheduler(smollm2_dir)
    busy(vllm, steps=3)
    total, steps, phases, used = vllm.scheduler.report(0)
    assert total == 3 and [step[:3] for step in steps] == [(80, 0, 80), (0, 2, 82), (0, 2, 84)]
    assert all(step[3] > 0 for step in steps)
    assert phases == {"a": "decode", "b": "decode"} and used > 0
    assert vllm.scheduler.report(2)[1] == steps[2:] and vllm.scheduler.report(3)[1] == []


@pytest.mark.parametrize("seed", range(8))
def test_under_random_load_every_request_gets_all_its_tokens(smollm2_dir: Path, seed: int) -> None:
    chance = random.Random(seed)
    limits = UrgencyLimits(
        margin_ms=5,
        quantum=1,
        most_preemptions=3,
        prefill_chunk=chance.choice([0, 16, 64]),
        prefill_steps=0,
        slowdown=chance.choice([0.0, 1.0, 1.5]),
        hurry=1e9,
    )
    to_come = int(1000 * time.time()) + chance.choice([-10_000, 3_600_000])
    vllm = scheduler(smollm2_dir, limits, slots=4, kv_tokens=1024)
    wanted: dict[str, int] = {}
    got: Counter[str] = Counter()
    ended: list[str] = []
    for step in range(5000):
        if step >= 200 and not vllm.has_work:
            break
        if step < 200 and chance.random() < 0.3:
            name = f"r{len(wanted)}"
            wanted[name] = chance.randint(1, 40)
            length = chance.choice([5, 60, 400])
            key = to_come + chance.randint(0, 99)
            vllm.add(name, prompt(len(wanted), length), wanted[name], priority=key, arrived=step)
        if wanted and chance.random() < 0.2:
            vllm.rekey(chance.choice(list(wanted)), to_come + chance.randint(0, 99))
        outcome = vllm.step()
        got.update(outcome.tokens)
        ended += outcome.ended
        running, _ = vllm.counts()
        assert running <= 4
    assert sorted(ended) == sorted(wanted), "each ends once"
    assert got == Counter(wanted)
